"""Files of every kind, as people save them: what is read, from which line, and what is said otherwise."""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lora_scripts.core.problems import ProblemsError
from lora_scripts.data import table, text_hub, text_lines
from lora_scripts.data.text_sources import TextSource, open_texts
from tests.data.text_cases import codes, contents, dialogue, read, write_jsonl

QA = [{"问题": f"第{n}个问题？", "回答": f"这是第{n}个回答。"} for n in range(5)]


def lines_of(examples):
    return [example.where.line for example in examples]


def said(texts):
    return [(p.code, p.where.line) for p in texts.problems]


def test_elements_of_a_list_are_on_the_lines_where_they_begin(tmp_path):
    path = tmp_path / "a.json"
    for text, expected in (
        (json.dumps(QA, ensure_ascii=False), [1] * 5),
        (json.dumps(QA, ensure_ascii=False, indent=2), [2, 6, 10, 14, 18]),
        ("\n\n[" + ",\n".join(json.dumps(row) for row in QA) + "]\n", [3, 4, 5, 6, 7]),
        (json.dumps({"version": 1, "data": QA}, indent=2), [4, 8, 12, 16, 20]),
        ("\n".join(json.dumps(row) for row in QA), [1, 2, 3, 4, 5]),
        (json.dumps(QA[0], indent=1), [1]),
    ):
        path.write_text(text, encoding="utf-8")
        examples, texts = read(path)
        assert texts.problems == []
        assert lines_of(examples) == expected


def test_one_conversation_is_a_row_and_no_shell_around_its_turns(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"messages": dialogue("a", "b")}), encoding="utf-8")
    examples, texts = read(path)
    assert (len(examples), list(texts.forms.values())) == (1, ["messages"])


ROWS = [f'  {{"question": "q{n}", "answer": "a{n}"}}' for n in range(5)]


def listed(*rows: str, end: str = "\n]") -> str:
    return "[\n" + ",\n".join(rows) + end


BROKEN = {
    "a comma too many": (listed(*ROWS[:2], ROWS[2].replace("}", ",}"), *ROWS[3:]), [("LS2122", 4)], 4),
    "single quotes": (listed(ROWS[0], ROWS[1].replace('"', "'"), *ROWS[2:]), [("LS2121", 3)], 4),
    "two of them": (
        listed(ROWS[0].replace('"', "'"), ROWS[1], ROWS[2].replace(":", "："), *ROWS[3:]),
        [("LS2121", 2), ("LS2127", 4)],
        3,
    ),
    "a comma after the last": (listed(*ROWS, end=",\n]"), [("LS2122", 6)], 5),
    "no comma between": (listed(*ROWS).replace("},\n", "}\n", 1), [("LS2129", 3)], 5),
    "cut short": (listed(*ROWS)[:-12], [("LS2124", 6)], 4),
    "no bracket at the end": (listed(*ROWS, end=""), [("LS2124", 6)], 5),
    "a second list": (listed(*ROWS) + "\n[]", [("LS2126", 8)], 5),
    "a number among them": (listed(*ROWS[:2], "7", *ROWS[3:]), [("LS2128", 4)], 4),
    "no JSON at all": ("question: q\nanswer: a\n", [("LS2120", 1)], 0),
    "a brace that is missing": (listed(ROWS[0].replace("}", ""), *ROWS[1:]), [("LS2120", 3)], 4),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_a_list_is_said_by_line_and_the_rest_is_read(tmp_path, case):
    text, expected, count = BROKEN[case]
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    examples, texts = read(path)
    assert said(texts) == expected
    assert len(examples) == count


def test_bad_rows_of_a_pretty_list_are_named_by_their_own_lines(tmp_path):
    rows = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(4)]
    text = json.dumps(rows, indent=4).replace('"answer": "a1"', '"answer" "a1"').replace('"a3"', '""')
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    examples, texts = read(path)
    assert said(texts) == [("LS2120", 8), ("LS2131", 14)]
    assert lines_of(examples) == [2, 10]


def test_a_list_in_one_line_goes_on_behind_a_flat_row_and_never_inside_another(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"question": "a", "answer": b}, {"question": "c", "answer": "d"}]', encoding="utf-8")
    examples, texts = read(path)
    assert (len(examples), codes(texts.problems)) == (1, ["LS2120"])
    broken = [{"messages": dialogue("a", "b", "c", "d")}] * 2
    path.write_text(json.dumps(broken).replace('"a"', "a", 1), encoding="utf-8")
    examples, texts = read(path)
    assert (examples, codes(texts.problems)) == ([], ["LS2120"])


def test_a_list_that_is_too_large_is_told_how_to_be_streamed(tmp_path, monkeypatch):
    monkeypatch.setattr("lora_scripts.data.text_reader.WHOLE", 10)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(QA), encoding="utf-8")
    assert codes(read(path)[1].problems) == ["LS2106"]
    assert read(write_jsonl(tmp_path / "a.jsonl", QA))[1].problems == []


@pytest.mark.parametrize(
    ("name", "encoding", "said_too"),
    [
        ("utf-8", "utf-8", []),
        ("with a mark", "utf-8-sig", []),
        ("utf-16", "utf-16", []),
        ("GBK of Excel", "gb18030", ["LS2011"]),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".txt"])
def test_encodings(tmp_path, suffix, name, encoding, said_too):
    if suffix == ".csv":
        text = "问题,回答\r\n" + "".join(f"{row['问题']},{row['回答']}\r\n" for row in QA)
    elif suffix == ".jsonl":
        text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in QA)
    else:
        text = json.dumps(QA, ensure_ascii=False) if suffix == ".json" else QA[0]["问题"]
    path = tmp_path / f"data{suffix}"
    path.write_bytes(text.encode(encoding))
    examples, texts = read(path)
    assert codes(texts.problems) == said_too
    if suffix == ".txt":
        assert [example.text for example in examples] == [QA[0]["问题"]]
    else:
        assert [contents(example.turns) for example in examples] == [[r["问题"], r["回答"]] for r in QA]
        first = {".jsonl": 1, ".json": 1, ".csv": 2}[suffix]
        assert examples[0].where.line == first


def test_damaged_lines_of_an_utf8_file_are_named_and_the_rest_is_read(tmp_path):
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in QA]
    lines[1] = lines[1].replace("问题？".encode(), b"\xe9\x97?", 1)
    for name, text in (("a.jsonl", b"\n".join(lines)), ("a.json", b"[" + b",\n".join(lines) + b"]")):
        path = tmp_path / name
        path.write_bytes(text)
        examples, texts = read(path)
        assert said(texts) == [("LS2163", 2)]
        assert len(examples) == 4
    half = tmp_path / "half.jsonl"
    half.write_bytes(b"\n".join(lines[:2]))
    assert said(read(half)[1]) == [("LS2163", 2)]
    path = write_jsonl(tmp_path / "ascii.jsonl", [{"text": f"row {n}"} for n in range(5)])
    path.write_bytes(path.read_bytes().replace(b"row 3", b"row \xff"))
    assert said(read(path)[1]) == [("LS2163", 4)]


def test_what_is_no_text_is_said_to_be_none(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(bytes(range(256)) * 4)
    assert codes(read(path)[1].problems) == ["LS2010"]
    path.write_bytes(json.dumps(QA).encode("utf-16-le"))
    assert codes(read(path)[1].problems) == ["LS2010"]


@pytest.mark.parametrize("block", [1, 2, 3, 2000])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_tables_are_read_by_physical_line_whatever_the_block(tmp_path, monkeypatch, block, suffix):
    monkeypatch.setattr(table, "BLOCK", block)
    path = tmp_path / f"a{suffix}"
    mark = "," if suffix == ".csv" else "\t"
    rows = [
        ["question", "answer"],
        ["q1", '"two\nlines\nand ""quotes"", commas"'],
        [""],
        ["q2", "a2"],
        ["q3", '"one\n\nmore"'],
        ["q4"],
        ["q5", ""],
        ["q6", "a6"],
    ]
    path.write_text("\n".join(mark.join(row) for row in rows) + "\n", encoding="utf-8")
    examples, texts = read(path)
    assert said(texts) == [("LS2162", 10), ("LS2130", 11)]
    assert lines_of(examples) == [2, 6, 7, 12]
    assert examples[0].turns[1].content == 'two\nlines\nand "quotes", commas'
    assert list(texts.forms.values()) == ["question_answer"]


@pytest.mark.parametrize("block", [1, 3, 2000])
def test_quotes_of_tables_that_go_wrong(tmp_path, monkeypatch, block):
    monkeypatch.setattr(table, "BLOCK", block)
    path = tmp_path / "a.csv"
    path.write_text('question,answer\n"q1" x,a1\nq2,a2\nq3,"never closed\nq4,a4\n', encoding="utf-8")
    examples, texts = read(path)
    assert said(texts) == [("LS2160", 2), ("LS2161", 4)]
    assert lines_of(examples) == [3, 5]


def test_a_table_of_semicolons_and_one_without_a_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("问题;回答\n甲;乙\n", encoding="utf-8")
    assert contents(read(path)[0][0].turns) == ["甲", "乙"]
    path.write_text("What is it?,A shop.\nWho?,Me.\nWhere?,Here.\n", encoding="utf-8")
    assert said(read(path)[1]) == [("LS2111", 2)]


def test_parquet_is_read_by_row(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{"messages": dialogue(f"q{n}", f"a{n}"), "id": n} for n in range(9)]
    rows[4]["messages"][1]["content"] = ""
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    examples, texts = read(path)
    assert said(texts) == [("LS2131", 5)]
    assert lines_of(examples) == [1, 2, 3, 4, 6, 7, 8, 9]
    assert list(texts.forms.values()) == ["messages"]
    flat = tmp_path / "b.parquet"
    pq.write_table(pa.table({"问题": ["甲", None], "回答": ["乙", "丙"], "n": [1, 2]}), flat)
    examples, texts = read(flat)
    assert (len(examples), said(texts)) == (1, [("LS2130", 2)])
    pq.write_table(pa.table({"titel": ["x"]}), flat)
    assert codes(read(flat)[1].problems) == ["LS2111"]
    path.write_bytes(path.read_bytes()[:-9])
    assert codes(read(path)[1].problems) == ["LS2107"]


def test_a_folder_is_one_data_file_or_documents(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    assert codes(read(folder)[1].problems) == ["LS2104"]
    (folder / "b.txt").write_text("Second.", encoding="utf-8")
    (folder / "a.txt").write_text("First.\n\nGoes on.", encoding="utf-8")
    (folder / ".hidden.txt").write_text("no", encoding="utf-8")
    (folder / "c.txt").write_text(" \n", encoding="utf-8")
    examples, texts = read(folder)
    assert [example.text for example in examples] == ["First.\n\nGoes on.", "Second."]
    assert [(p.code, p.where.file) for p in texts.problems] == [("LS2132", str(folder / "c.txt"))]
    assert (texts.forms, texts.counts) == ({str(folder): "text"}, {str(folder): 2})
    before = texts.files[str(folder)]
    (folder / "a.txt").write_text("First!", encoding="utf-8")
    assert read(folder)[1].files[str(folder)] != before
    write_jsonl(folder / "rows.jsonl", QA)
    examples, texts = read(folder)
    assert len(examples) == 5
    assert [(p.code, p.severity) for p in texts.problems] == [("LS2105", "note")]
    assert list(texts.forms) == [str(folder / "rows.jsonl")]
    (folder / "more.csv").write_text("question,answer\na,b\n", encoding="utf-8")
    problem = read(folder)[1].problems[0]
    assert (problem.code, problem.params["files"]) == ("LS2103", "more.csv, rows.jsonl")


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", QA)
    (tmp_path / "book.xlsx").write_bytes(b"PK")
    (tmp_path / "empty.jsonl").write_bytes(b"\n \n")
    (tmp_path / "empty.json").write_bytes(b"[]")
    (tmp_path / "empty.csv").write_bytes("问题,回答\n".encode())
    assert codes(read(tmp_path / "trian.jsonl")[1].problems) == ["LS2102"]
    assert codes(read(tmp_path / "nowhere" / "x.jsonl")[1].problems) == ["LS2100"]
    assert codes(read(tmp_path / "book.xlsx")[1].problems) == ["LS2101"]
    assert codes(read("a\0b")[1].problems) == ["LS2100"]
    for name in ("empty.jsonl", "empty.json", "empty.csv"):
        assert codes(read(tmp_path / name)[1].problems) == ["LS2118"]


def test_several_sources_keep_their_order_their_weights_and_their_hashes(tmp_path):
    one = write_jsonl(tmp_path / "one.jsonl", QA)
    two = write_jsonl(tmp_path / "two.jsonl", [{"text": "x"}])
    texts = open_texts([TextSource(str(one), weight=2.0), TextSource(str(two), weight=0.5)])
    assert texts.files == {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in (one, two)}
    for _ in range(2):
        assert [example.weight for example in texts] == [2.0] * 5 + [0.5]
        assert texts.forms == {str(one): "question_answer", str(two): "text"}
        assert texts.counts == {str(one): 5, str(two): 1}


def test_a_line_without_end_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(text_lines, "LONGEST", 64)
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b" * 500}, {"text": "c"}])
    examples, texts = read(path)
    assert said(texts) == [("LS2124", 2)]
    assert lines_of(examples) == [1, 3]


def test_the_training_split_of_a_hub_data_set_is_found():
    found = text_hub.training_files
    shards = ["data/test-00000-of-00001.parquet", *(f"data/train-0000{n}-of-00002.parquet" for n in (1, 0))]
    assert found([*shards, "README.md", ".gitattributes"]) == sorted(shards[1:])
    assert found(["set.py", "dataset_infos.json", "alpaca.json"]) == ["alpaca.json"]
    assert found(["train.jsonl", "train.csv", "dev.jsonl"]) == ["train.jsonl"]
    assert found(["en/train.parquet", "zh/train.parquet"]) == []
    assert found(["test.jsonl", "validation.jsonl", "load.py"]) == []


def test_what_can_only_be_a_hub_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert text_hub.is_hub_name("tatsu-lab/alpaca")
    for path in ("data/alpaca", "a/b/c", "owner/rows.jsonl", "../alpaca", "/srv/alpaca", "alpaca"):
        assert not text_hub.is_hub_name(path)


def test_a_hub_data_set_without_a_network_is_an_error_and_a_cached_one_is_read(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()

    def missing(*args, **kwargs):
        raise LocalEntryNotFoundError("not cached")

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", missing)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", offline)
    problem = read("owner/answers")[1].problems[0]
    assert (problem.code, problem.params["reason"]) == ("LS2108", "no route to host")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(snapshot))
    write_jsonl(snapshot / "train-00000-of-00002.jsonl", QA[:2])
    assert codes(read("owner/answers")[1].problems) == ["LS2108"]
    write_jsonl(snapshot / "train-00001-of-00002.jsonl", QA[2:])
    examples, texts = read("owner/answers")
    assert (len(examples), texts.problems) == (5, [])


def test_a_hub_data_set_is_fetched_by_its_training_files_only(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    class Entry:
        def __init__(self, name):
            self.rfilename = name

    class About:
        sha = "abc"
        siblings = [Entry(name) for name in ("load.py", "train.jsonl", "test.jsonl")]  # noqa: RUF012

    asked = {}

    def download(name, **options):
        if options.get("local_files_only"):
            raise LocalEntryNotFoundError("not cached")
        asked.update(options)
        write_jsonl(tmp_path / "train.jsonl", QA)
        return str(tmp_path)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *args, **kwargs: About)
    examples, _ = read("owner/answers")
    assert len(examples) == 5
    assert (asked["allow_patterns"], asked["repo_type"]) == (["train.jsonl"], "dataset")
    About.siblings = [Entry("load.py")]
    with pytest.raises(ProblemsError) as error:
        text_hub.fetch("owner/answers")
    assert codes(error.value.problems) == ["LS2109"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet"])
def test_two_columns_of_one_name_are_refused_once(tmp_path, name):
    path, header = tmp_path / name, ["question", "answer", "note", "note", "Answer"]
    rows = [["q", "a", "x", "y", "other"]] * 3

    def write(names):
        if name.endswith(".parquet"):
            pq.write_table(pa.table([list(column) for column in zip(*rows, strict=True)], names=names), path)
        else:
            mark = "\t" if name.endswith(".tsv") else ","
            path.write_text("\n".join(mark.join(row) for row in [names, *rows]), encoding="utf-8")

    for names in (header, [*header[:4], "answer"]):
        write(names)
        examples, texts = read(path)
        assert (examples, said(texts)) == ([], [("LS2117", 1)])
        assert texts.problems[0].params["column"].lower() == "answer"
    write([*header[:4], ""])
    examples, texts = read(path)
    assert (len(examples), texts.problems) == (3, [])
    write(header)
    examples, texts = read(path, columns={"prompt": "question", "completion": "answer"})
    assert (len(examples), texts.problems) == (3, [])


@pytest.mark.parametrize("header", ["question,answer", "instruction,output", "prompt,completion"])
def test_a_column_without_a_name_is_passed_over(tmp_path, header):
    """Tables are often saved with the numbers of their rows in front, under no name."""
    path = tmp_path / "a.csv"
    path.write_text(f",{header}\n0,When?,Soon.\n1,Where?,Here.\n", encoding="utf-8")
    examples, texts = read(path)
    assert texts.problems == []
    assert [contents(example.turns) for example in examples] == [["When?", "Soon."], ["Where?", "Here."]]
