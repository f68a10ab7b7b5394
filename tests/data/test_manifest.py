"""Captions and pictures find each other, and whatever keeps them apart is named with its line."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from lora_scripts.core.catalogue import message, render
from lora_scripts.core.problems import errors
from lora_scripts.data.manifest import Manifest, read_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "style"
    home.mkdir()
    return home


def draw(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), "red").save(path)


def write(folder: Path, text: str | bytes, name: str = "metadata.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def captions(manifest: Manifest) -> dict[str, str]:
    return {example.fields["name"]: example.fields["caption"] for example in manifest.examples}


def codes(manifest: Manifest) -> list[str]:
    return [problem.code for problem in manifest.problems]


@pytest.mark.parametrize(
    "text",
    [
        'file_name,text\na.png,"a city, neon"\n',
        'a.png,"a city, neon"\n',
        'a.png, "a city, neon"',
        '\ufefffile_name,text\r\na.png,"a city, neon"\r\n',
        'text,file_name\r"a city, neon",a.png\r',
        '文件名,描述\na.png,"a city, neon"\n',
        'image,caption,author\na.png,"a city, neon",me\n',
        'file_name;text\na.png;"a city, neon"\n',
        "file_name\ttext\na.png\ta city, neon\n",
        'picture_of,caption\na.png,"a city, neon"\n',
        '"a.png","a city, neon"\n\n\n',
        'file_name,text\n.\\a.png,"a city, neon"\n',
    ],
)
def test_every_usual_way_of_writing_a_table_is_read(folder: Path, text: str) -> None:
    draw(folder, "a.png")
    write(folder, text)
    manifest = read_pictures(folder)
    assert captions(manifest) == {"a.png": "a city, neon"}
    assert manifest.problems == []


def test_a_missing_comma_in_line_45_reads_as_promised(folder: Path) -> None:
    rows = [f'img{number:02}.png,"scene {number}"' for number in range(2, 61)]
    rows[43] = rows[43].replace(",", " ")
    draw(folder, *(f"img{number:02}.png" for number in range(2, 61)))
    write(folder, "\n".join(["file_name,text", *rows]))
    (problem,) = errors(read_pictures(folder).problems)
    text = render(problem, "en")
    assert text.startswith(str(folder / "metadata.csv") + ":45 LS2001 Line 45: Invalid format: ")
    assert text.splitlines()[1].endswith('img45.png,"scene 45"')
    assert "Line 45: Invalid format" in render(problem, "zh")


def test_all_bad_rows_are_named_at_once_and_the_good_ones_are_kept(folder: Path) -> None:
    draw(folder, *(f"{letter}.png" for letter in "abcdefgh"))
    write(
        folder,
        'file_name,text\na.png,fine\nb.png "no comma"\nc.png,a city, neon\nd.png,"x" y\n'
        'e.png,"never closed\nf.png,fine\n,lonely caption\ng.png\0,nul\nh.png，full width\n',
    )
    manifest = read_pictures(folder)
    found = [(problem.code, problem.where.line) for problem in errors(manifest.problems) if problem.where]
    assert found == [
        ("LS2001", 3),
        ("LS2002", 4),
        ("LS2003", 5),
        ("LS2004", 6),
        ("LS2006", 8),
        ("LS2005", 9),
        ("LS2001", 10),
    ]
    assert all("Invalid format" in message(problem) for problem in errors(manifest.problems))
    assert captions(manifest) == {"a.png": "fine", "f.png": "fine"}


@pytest.mark.parametrize(
    ("row", "meant"),
    [
        ("a.png,a city, neon", 'a.png,"a city, neon"'),
        ("a.png，夜晚的城市", 'a.png,"夜晚的城市"'),
        ('a.png "a city"', 'a.png,"a city"'),
        ("a.png,“a city, neon”", 'a.png,"a city, neon"'),
        ('a.png,"a \\"neon\\" sign"', 'a.png,"a ""neon"" sign"'),
        ("my photo.png a city", 'my photo.png,"a city"'),
    ],
)
def test_the_remedy_shows_the_row_as_it_should_be(folder: Path, row: str, meant: str) -> None:
    draw(folder, "a.png", "my photo.png")
    write(folder, "file_name,text\n" + row)
    (problem,) = errors(read_pictures(folder).problems)
    assert problem.params["suggestion"] == meant


@pytest.mark.parametrize("after", ['"another"', '"another, thing"', "plain", 'x"', ""])
def test_an_unclosed_quote_is_named_where_it_opens(folder: Path, after: str) -> None:
    draw(folder, "a.png", "b.png", "c.png")
    write(folder, f'file_name,text\na.png,"a city\nb.png,{after}\nc.png,"fine"\n')
    manifest = read_pictures(folder)
    assert [(p.code, p.where.line) for p in errors(manifest.problems) if p.where] == [("LS2004", 2)]
    assert captions(manifest)["c.png"] == "fine"


def test_a_quote_that_closes_lines_later_in_the_middle_of_text_is_named_where_it_opens(folder: Path) -> None:
    draw(folder, "a.png", "c.png")
    write(folder, 'file_name,text\na.png,"a city\nwith "neon" signs\nc.png,fine\n')
    manifest = read_pictures(folder)
    assert next((p.code, p.where.line) for p in errors(manifest.problems) if p.where) == ("LS2004", 2)
    assert captions(manifest) == {"c.png": "fine"}


def test_lines_are_physical_lines_across_quoted_newlines(folder: Path) -> None:
    draw(folder, "a.png")
    write(folder, 'file_name,text\r\na.png,"one\r\ntwo\r\nthree"\r\nb.png nothing\r\n')
    manifest = read_pictures(folder)
    assert captions(manifest) == {"a.png": "one two three"}
    (problem,) = errors(manifest.problems)
    assert problem.params["line"] == 5


def test_gbk_from_a_chinese_spreadsheet_is_read_and_shown(folder: Path) -> None:
    draw(folder, "a.png")
    write(folder, 'file_name,text\r\na.png,"赛博朋克城市，霓虹灯"\r\n'.encode("gbk"))
    manifest = read_pictures(folder)
    assert captions(manifest) == {"a.png": "赛博朋克城市，霓虹灯"}
    (problem,) = manifest.problems
    assert (problem.code, problem.severity) == ("LS2011", "warning")
    assert "赛博朋克城市" in message(problem)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_encodings_are_read_without_a_word(folder: Path, encoding: str) -> None:
    draw(folder, "a.png")
    write(folder, "file_name,text\na.png,赛博\n".encode(encoding))
    manifest = read_pictures(folder)
    assert captions(manifest) == {"a.png": "赛博"}
    assert manifest.problems == []


@pytest.mark.parametrize(
    "data",
    [
        "a.png,un café là-bas, naïve".encode("latin-1"),
        "a.png,サイバーパンクの街".encode("shift-jis"),
        b"a.png,\xff\x00\x81",
        "a.png,city".encode("utf-16-le"),
        b"\xff\xfea",
    ],
)
def test_an_encoding_that_is_not_certain_is_never_guessed(folder: Path, data: bytes) -> None:
    draw(folder, "a.png")
    write(folder, data)
    manifest = read_pictures(folder)
    assert "LS2010" in codes(manifest)
    assert not manifest.examples


def test_names_are_looked_for_in_the_data_folder_then_beside_the_table(folder: Path, tmp_path: Path) -> None:
    draw(folder, "a.png", "sub/b.png", "both.png")
    draw(tmp_path, "elsewhere.png", "both.png")
    table = write(tmp_path, "a.png,1\nsub\\b.png,2\nelsewhere.png,3\nstyle/sub/../both.png,4\n")
    manifest = read_pictures(folder, table)
    assert errors(manifest.problems) == []
    assert captions(manifest) == {"a.png": "1", "sub/b.png": "2", "elsewhere.png": "3", "both.png": "4"}
    assert manifest.examples[3].fields["image"] == folder / "both.png"


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "sub/../../secret.png", "/etc/secret.png", "C:\\secret.png", "\\\\host\\x\\secret.png"],
)
def test_a_row_cannot_reach_out_of_the_data_folder(folder: Path, tmp_path: Path, name: str) -> None:
    draw(tmp_path, "secret.png")
    draw(folder, "a.png")
    write(folder, f"a.png,x\n{name},y\n")
    manifest = read_pictures(folder)
    assert list(captions(manifest)) == ["a.png"]
    (problem,) = errors(manifest.problems)
    assert (problem.code, problem.where.line if problem.where else 0) == ("LS2032", 2)


def test_an_absolute_path_into_the_data_folder_is_fine(folder: Path) -> None:
    draw(folder, "a.png")
    write(folder, f"{(folder / 'a.png').absolute()},x\n")
    assert captions(read_pictures(folder)) == {"a.png": "x"}


def test_rows_without_a_picture_stop_and_pictures_without_a_row_do_not(folder: Path) -> None:
    draw(folder, "img01.jpg", "img02.png", "extra.png", "sub/deep.png")
    write(folder, "file_name,text\nimg01.png,x\nimg02.png,y\nzzzzzz.png,z\ndeep.png,w\n")
    manifest = read_pictures(folder)
    assert [(p.code, p.params["name"]) for p in errors(manifest.problems)] == [
        ("LS2031", "img01.png"),
        ("LS2030", "zzzzzz.png"),
        ("LS2031", "deep.png"),
    ]
    assert manifest.problems[0].params["near"] == "img01.jpg"
    (left,) = [p for p in manifest.problems if p.code == "LS2036"]
    assert (left.severity, left.params["count"]) == ("warning", 3)
    strict = read_pictures(folder, strict=True)
    assert "LS2036" in [p.code for p in errors(strict.problems)]


def test_a_picture_listed_twice(folder: Path) -> None:
    draw(folder, "a.png", "b.png")
    write(folder, "a.png,x\nb.png,y\na.png,x\nb.png,other\n")
    manifest = read_pictures(folder)
    assert [(p.code, p.severity, p.params["earlier"]) for p in manifest.problems] == [
        ("LS2035", "warning", 1),
        ("LS2034", "error", 2),
    ]
    assert captions(manifest) == {"a.png": "x", "b.png": "y"}


def test_unicode_forms_and_capitals_of_names(folder: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "café.png")
    draw(folder, decomposed, "IMG01.PNG", "一 只猫🐱.png")
    write(folder, "file_name,text\ncafé.png,x\nimg01.png,y\n一 只猫🐱.png,z\n")
    manifest = read_pictures(folder)
    assert manifest.problems == []
    assert list(captions(manifest)) == ["café.png", "IMG01.PNG", "一 只猫🐱.png"]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the file system takes both names for one")
def test_names_that_collide_elsewhere_are_named(folder: Path) -> None:
    draw(folder, "a.png", "A.png")
    write(folder, "a.png,x\nA.png,y\na.PNG,z\n")
    manifest = read_pictures(folder)
    assert captions(manifest) == {"a.png": "x", "A.png": "y"}
    assert codes(manifest) == ["LS2033", "LS2038"]


def test_empty_captions_warn_and_stop_when_strict(folder: Path) -> None:
    draw(folder, "a.png", "b.png", "c.png")
    write(folder, 'file_name,text\na.png,""\nb.png,", ,"\nc.png,fine\n')
    (problem,) = read_pictures(folder).problems
    assert (problem.code, problem.severity, problem.params["count"]) == ("LS2037", "warning", 2)
    assert "metadata.csv:2" in problem.params["names"]
    assert [p.code for p in errors(read_pictures(folder, strict=True).problems)] == ["LS2037"]


def test_a_lora_marker_stays_text_and_is_explained(folder: Path) -> None:
    draw(folder, "a.png")
    write(folder, "a.png,a street <lora:style_v1>\n")
    manifest = read_pictures(folder)
    assert captions(manifest) == {"a.png": "a street <lora:style_v1>"}
    assert [(p.code, p.severity) for p in manifest.problems] == [("LS2040", "note")]


def test_caption_files_beside_the_pictures(folder: Path) -> None:
    draw(folder, "a.png", "sub/b.png", "c.jpg", "d.png")
    write(folder, "\ufeffa city\n", "a.txt")
    write(folder, "a dog\r\n", "sub/b.caption")
    write(folder, "a cat", "c.jpg.txt")
    write(folder, "read me", "notes.txt")
    manifest = read_pictures(folder)
    assert captions(manifest) == {"a.png": "a city", "sub/b.png": "a dog", "c.jpg": "a cat"}
    assert sorted(codes(manifest)) == ["LS2036", "LS2039"]
    assert errors(manifest.problems) == []


def test_which_source_wins(folder: Path) -> None:
    draw(folder, "a.png")
    write(folder, "from text", "a.txt")
    assert captions(read_pictures(folder)) == {"a.png": "from text"}
    write(folder, '{"file_name": "a.png", "text": "from jsonl"}\n', "metadata.jsonl")
    assert captions(read_pictures(folder)) == {"a.png": "from jsonl"}
    write(folder, "a.png,from csv\n")
    manifest = read_pictures(folder)
    assert captions(manifest) == {"a.png": "from csv"}
    assert manifest.source == str(folder / "metadata.csv")


def test_bad_lines_of_jsonl_are_named(folder: Path) -> None:
    draw(folder, "a.png", "b.png")
    write(
        folder,
        '{"file_name": "a.png", "text": "x"}\n\n{"file_name": "b.png"}\n[1]\n{"file_name": 3, "text": "y"}\n'
        '{"file_name": "b.png", "text": "\\ud83d"}\n{broken\n' + "[" * 5000 + "\n",
        "metadata.jsonl",
    )
    manifest = read_pictures(folder)
    assert [p.params["line"] for p in errors(manifest.problems)] == [3, 4, 5, 6, 7, 8]
    assert captions(manifest) == {"a.png": "x"}


def test_folders_and_files_that_are_not_there(folder: Path) -> None:
    assert codes(read_pictures(folder / "nowhere")) == ["LS2020"]
    assert codes(read_pictures(folder, folder / "nothing.csv")) == ["LS2022"]
    assert codes(read_pictures(folder)) == ["LS2021"]
    draw(folder, "a.png")
    assert codes(read_pictures(folder)) == ["LS2023"]
    assert codes(read_pictures(folder, write(folder, b"PK\x03\x04", "captions.xlsx")))[0] == "LS2012"
    assert codes(read_pictures(folder, write(folder, "file_name,text\n")))[0] == "LS2009"
    assert codes(read_pictures(folder, write(folder, "")))[0] == "LS2009"


@pytest.mark.parametrize(
    ("header", "column"),
    [("filname,text", None), ("file_name,author,year", "text"), ("id,text,tags", "file_name")],
)
def test_a_header_without_the_needed_columns(folder: Path, header: str, column: str | None) -> None:
    draw(folder, "a.png")
    write(folder, header + "\na.png,x" + ",y" * (header.count(",") - 1))
    found = [p for p in read_pictures(folder).problems if p.code == "LS2008"]
    assert [p.params["column"] for p in found] == ([column] if column else [])


def test_excluded_and_hidden_folders_hold_no_training_pictures(folder: Path) -> None:
    draw(folder, "a.png", "held/b.png", ".thumbs/c.png", "._a.png")
    write(folder, "x", "a.txt")
    write(folder, "x", "held/b.txt")
    assert list(captions(read_pictures(folder, exclude=[folder / "held"]))) == ["a.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_table_that_may_not_be_read(folder: Path) -> None:
    write(folder, "a.png,x\n").chmod(0)
    assert codes(read_pictures(folder)) == ["LS2013"]


def test_control_characters_of_a_file_never_reach_the_terminal(folder: Path) -> None:
    write(folder, "file_name,text\na.png \x1b[31mred\x07\n\u202eb.png,x\n")
    for problem in read_pictures(folder).problems:
        assert not {"\x1b", "\x07", "\u202e"} & set(message(problem))


@pytest.mark.long
def test_a_hundred_thousand_rows_are_read(tmp_path: Path) -> None:
    from lora_scripts.data.rows import read_rows

    table = write(tmp_path, "".join(f'img{n:06}.png,"a city, number {n}"\n' for n in range(100_000)))
    rows, problems = read_rows(table)
    assert len(rows) == 100_000
    assert problems == []
