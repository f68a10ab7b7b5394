"""The table as output: its quoting, what else the user keeps in it, and what a reader sees at any moment."""

from __future__ import annotations

import csv
import json

import pytest

from lora_scripts.data.folder import PictureFolder
from lora_scripts.labeling import table_file
from lora_scripts.labeling.table_file import TableFile
from tests.labeling.conftest import draw

NASTY = 'a "neon" sign, 20:00\u3000<lora:x:1> =1+1 ; 霓虹'


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "data", 3)
    return PictureFolder.scan(tmp_path / "data")


def table(folder, name="metadata.csv", **more) -> TableFile:
    kind = "jsonl" if name.endswith("l") else "csv"
    return TableFile(folder.root / name, folder, kind, **more)


def written(output: TableFile, **captions: str) -> str:
    output.read()
    for name, caption in captions.items():
        output.put(f"{name}.png", caption)
    assert output.flush(last=True)
    return output.path.read_bytes().decode()


def test_any_caption_comes_back_through_pythons_reader(folder):
    text = written(table(folder), img000=NASTY)
    assert list(csv.reader(text.splitlines())) == [["file_name", "text"], ["img000.png", NASTY]]
    assert written(table(folder), img001="x").startswith(text)


def test_names_that_need_quotes_get_them(tmp_path):
    draw(tmp_path / "a", 1)
    name = 'one, "two".png'
    (tmp_path / "a" / "img000.png").rename(tmp_path / "a" / name)
    folder = PictureFolder.scan(tmp_path / "a")
    output = table(folder)
    output.read()
    output.put(name, "x")
    output.flush(last=True)
    assert list(csv.reader(output.path.read_text().splitlines()))[1] == [name, "x"]
    assert table(folder).read()[0] == {name: "x"}


def test_without_a_header_and_with_excels_mark(folder):
    text = written(table(folder, header=False, excel=True), img000="霓虹")
    assert text == '\ufeffimg000.png,"霓虹"\n'
    assert written(table(folder), img001="x") == text + 'img001.png,"x"\n'


def test_other_columns_rows_and_their_order_stay(folder):
    path = folder.root / "metadata.csv"
    path.write_text("score,文件名,描述\n1,img002.png,old\n2,gone.png,kept\n3,img000.png,\n", encoding="utf-8")
    output = table(folder)
    here, problems = output.read()
    assert (here, problems, output.strangers) == ({"img002.png": "old", "img000.png": ""}, [], ["gone.png"])
    output.put("img000.png", "new")
    output.put("img001.png", "more")
    output.flush(last=True)
    assert path.read_text(encoding="utf-8").splitlines() == [
        "score,文件名,描述",
        '1,img002.png,"old"',
        "2,gone.png,kept",
        '3,img000.png,"new"',
        ',img001.png,"more"',
    ]


def test_a_semicolon_table_and_gbk_stay_readable(folder):
    path = folder.root / "metadata.csv"
    path.write_bytes("file_name;text\nimg000.png;霓虹灯下的城市街道\n".encode("gbk"))
    output = table(folder)
    here, problems = output.read()
    assert here == {"img000.png": "霓虹灯下的城市街道"}
    assert [problem.code for problem in problems] == ["LS2011"]
    output.put("img001.png", "a; b")
    output.flush(last=True)
    again, problems = table(folder).read()
    assert (again, problems) == (here | {"img001.png": "a; b"}, [])


def test_json_lines_keep_their_other_keys(folder):
    path = folder.root / "metadata.jsonl"
    path.write_text('{"file_name": "img001.png", "caption": "old", "source": {"a": 1}}\n', encoding="utf-8")
    text = written(table(folder, "metadata.jsonl"), img001="new", img000=NASTY)
    assert [json.loads(line) for line in text.splitlines()] == [
        {"file_name": "img001.png", "caption": "new", "source": {"a": 1}},
        {"file_name": "img000.png", "text": NASTY},
    ]


def test_a_reader_sees_whole_rows_while_it_is_written(folder, monkeypatch):
    seen = []
    real = table_file.write_atomic

    def watched(path, content):
        seen.append(path.read_text() if path.exists() else None)
        real(path, content)
        seen.append(path.read_text())

    monkeypatch.setattr(table_file, "write_atomic", watched)
    monkeypatch.setattr(table_file, "SECONDS", 0.0)
    monkeypatch.setattr(table_file, "SHARE", 0)
    output = table(folder)
    output.read()
    for name in folder.pictures:
        output.put(name, "x")
        assert output.flush()
    rows = [f'img00{number}.png,"x"\n' for number in range(3)]
    whole = [None] + ["file_name,text\n" + "".join(rows[: number + 1]) for number in range(3)]
    assert seen == [whole[0], whole[1], whole[1], whole[2], whole[2], whole[3]]


def test_a_row_broken_by_hand_while_it_runs_is_not_written_over(folder, monkeypatch):
    from lora_scripts.core.problems import ProblemsError

    monkeypatch.setattr(table_file, "SECONDS", 0.0)
    output = table(folder)
    written(output, img000="x")
    output.path.write_text("file_name,text\nimg000.png\n")
    output.put("img001.png", "y")
    assert not output.flush()
    with pytest.raises(ProblemsError):
        output.flush(last=True)
    assert output.path.read_text() == "file_name,text\nimg000.png\n"


def test_the_real_datasets_library_reads_it(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets", exc_type=ImportError)
    written(table(folder), img000=NASTY, img001="b", img002="c")
    (folder.root / "broken.png").write_bytes(b"no picture, and so without a row")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(folder.root), split="train")
    assert loaded["text"] == [NASTY, "b", "c"]
    assert [picture.size for picture in loaded["image"]] == [(32, 32), (48, 32), (32, 48)]
