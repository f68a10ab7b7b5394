"""Tables, lines, lists and caption files of both tasks, as people edit them and programs write them."""

from __future__ import annotations

import copy
import csv
import io
import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lora_scripts.core.problems import Problem, errors
from lora_scripts.data.manifest import read_pictures
from lora_scripts.data.text_files import listing
from lora_scripts.data.text_sources import TextSource, open_texts

from .case import Case, WrongAnswerError, judge
from .damage import ENCODINGS, anyhow, saved_as

NAME = "rows"
PICTURES = ("a.jpg", "b.png", "风格 c.webp", "sub/d.jpg")
CAPTIONS = (
    "a cat, sitting",
    "neon lights over a wet street",
    "夜晚的城市，霓虹灯",
    'say "hi"',
    "<lora:x:1>, sks",
    "",
)
CALL = {"name": "find", "arguments": {"number": 17}}


def _turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)]


FORMS: tuple[list[dict[str, Any]], ...] = (
    [{"messages": _turns("什么时候发货？", "二十四小时内。", "多少钱？", "十元。")} for _ in range(4)],
    [{"messages": [{"role": "system", "content": "s"}, *_turns("a", f"b{n}")]} for n in range(4)],
    [{"instruction": f"Say {n}", "input": "", "output": 'é\\n"x"'} for n in range(4)],
    [
        {"instruction": "x", "input": "y", "output": "z", "history": [["q", "a"]], "system": "s"}
        for _ in range(3)
    ],
    [
        {
            "conversations": [
                {"from": "human", "value": "订单？"},
                {"from": "function_call", "value": json.dumps(CALL)},
                {"from": "observation", "value": "{}"},
                {"from": "gpt", "value": "在路上 🚚"},
            ],
            "tools": json.dumps([{"name": "find"}]),
        }
        for _ in range(4)
    ],
    [{"messages": [*_turns("q"), {"role": "assistant", "content": "", "tool_calls": [{"function": CALL}]}]}]
    * 3,
    [{"prompt": "a", "chosen": "b", "rejected": f"c{n}"} for n in range(4)],
    [{"prompt": "a", "completion": f"c{n}"} for n in range(4)],
    [{"问题": "几点开门？", "回答": f"{n} 点"} for n in range(9, 12)],
    [{"text": "Plain text. " * 5} for _ in range(4)],
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1e308, float("nan"), float("inf"), 2**70, "", " ", "\n", "\0", "\x1b[31m",
    "\ud800", "\ufffe", [], {}, [None], [[]], [{}], {"a": None}, [{"role": "user"}],
    [{"role": 3, "content": []}], "[1, 2", '{"a":', "[" * 3000, '{"a":' * 3000, [[[[[[[[1]]]]]]]],
    "x" * 50_000, "字" * 20_000, "{{name}}", "<|im_end|>", "user", "assistant", 12345678901234567890,
    [{"role": "assistant", "content": "x"}], [{"role": "user", "content": [{"type": "image_url"}]}],
    "\u202eevil", "a\rb", "NaN", "null", {"from": "human", "value": "x"}, [{"from": "gpt", "value": None}],
    [["a", "b"], ["c"]], "\U0001f600" * 99, "\u2028", "'", '"', ",",
)  # fmt: skip
CELLS = (
    "", " ", '"', '""', '"x', 'x"y', 'x",y', "a,b", "a\nb", "a\r\nb", "\0", "\x1b[2J", "../../x.jpg",
    "/etc/passwd", "C:\\x.jpg", "a.jpg", "A.JPG", "a.jpg ", "a", "none.jpg", "con.jpg", "x" * 40_000, "，",
    "“a cat”", "=1+1", "<lora:x>", "\ufeff", ",,,,", "|||", "{a|b}", "\ud7ff", "\x85", "\t", ";",
    "file_name", "e\u0301.jpg", "sub\\d.jpg", "//server/x.jpg", "a.jpg,b.png",
)  # fmt: skip
HEADERS = (
    ("file_name", "text"),
    ("file", "caption"),
    ("文件名", "描述"),
    ("image", "prompt", "seed"),
    ("x", "y"),
    (),
)
FILE_WIDE = frozenset((
    "LS2008", "LS2009", "LS2010", "LS2011", "LS2012", "LS2013", "LS2020", "LS2021", "LS2022", "LS2023",
    "LS2036", "LS2037", "LS2038", "LS2039", "LS2040", "LS2100", "LS2101", "LS2102", "LS2103", "LS2104",
    "LS2105", "LS2107", "LS2400", "LS2401", "LS2402", "LS2403", "LS2404", "LS2405", "LS2406", "LS2407",
    "LS1031",
))  # fmt: skip
LOOSE = frozenset(("LS2110", "LS2118", "LS2119", "LS2123", "LS2191", "LS1031"))
"""What is said once for many rows."""


def _path_into(value: Any, chance: random.Random) -> list[Any]:
    """The way to some place inside nested lists and objects."""
    way: list[Any] = []
    while isinstance(value, dict | list) and value and (not way or chance.random() < 0.8):
        key = chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
        way.append(key)
        value = value[key]
    return way


def _changed(row: Any, chance: random.Random) -> tuple[Any, str]:
    row = copy.deepcopy(row)
    way = _path_into(row, chance)
    if not way:
        return chance.choice(VALUES), "a row that is none"
    owner = row
    for key in way[:-1]:
        owner = owner[key]
    last, what = way[-1], chance.choice(("value", "value", "value", "drop", "rename", "again"))
    if what == "value":
        owner[last] = chance.choice(VALUES)
    elif what == "drop":
        del owner[last]
    elif isinstance(owner, dict):
        name = chance.choice(
            (str(last) + "s", str(last).upper(), "x", "", "\x1b[1m", "k" * 9000, "rôle", "role ")
        )
        owner[name] = owner.pop(last) if what == "rename" else owner[last]
    else:
        owner.insert(last, copy.deepcopy(owner[last]))
    return row, f"{what} of {'.'.join(map(str, way))}"[:60]


def _as_json(value: Any, chance: random.Random) -> str:
    return json.dumps(value, ensure_ascii=chance.random() < 0.3)


def _table(rows: Sequence[Sequence[str]], chance: random.Random, delimiter: str) -> str:
    buffer = io.StringIO()
    quoting = chance.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator="\n")
    writer.writerows(rows)
    return buffer.getvalue()


@cache
def _parquet(number: int) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(FORMS[number]), buffer)
    return buffer.getvalue()


def _bytes(text: str, chance: random.Random) -> tuple[bytes, str]:
    """The text in some encoding, with some line end, and sometimes damaged."""
    if chance.random() < 0.15:
        text = text.replace("\n", chance.choice(("\r\n", "\r", "\u2028", "\x85")))
    if chance.random() < 0.15:
        encoding = chance.choice(ENCODINGS)
        return saved_as(text, encoding), f" in {encoding}"
    return text.encode("utf-8", "surrogatepass"), ""


def _texts(chance: random.Random) -> Case:
    form = chance.randrange(len(FORMS))
    rows: list[Any] = list(FORMS[form])
    suffix = chance.choice((".jsonl",) * 6 + (".json",) * 3 + (".csv", ".csv", ".tsv", ".txt"))
    options: dict[str, Any] = {"task": "text", "skip": chance.random() < 0.3, "columns": {}, "rows": None}
    if chance.random() < 0.02:
        data, told = anyhow(_parquet(form), _parquet(0), chance)
        return Case({"rows.parquet": data}, "rows.parquet", f"parquet {told}", options=options)
    told, whole = [], True
    if chance.random() < 0.6:
        for _ in range(chance.choice((1, 1, 2))):
            at = chance.randrange(len(rows))
            rows[at], what = _changed(rows[at], chance)
            told.append(what)
    if chance.random() < 0.05:
        options["columns"] = chance.choice(
            ({"prompt": "x"}, {"nonsense": "y"}, {"text": "text"}, {"messages": "messages"})
        )
    if chance.random() < 0.08:
        rows += FORMS[chance.randrange(len(FORMS))]
        told.append("two forms")
    if suffix == ".jsonl":
        text = "\n".join(_as_json(row, chance) for row in rows)
    elif suffix == ".json":
        shell: Any = chance.choice((rows, rows, {"data": rows}, {"a": rows, "b": rows}, rows[0]))
        whole = shell is rows or (isinstance(shell, dict) and shell.get("data") is rows)
        text = json.dumps(shell, ensure_ascii=False, indent=chance.choice((None, 1, 2)))
    elif suffix == ".txt":
        text, whole = "\n\n".join(str(row) for row in rows), False
    else:
        names = list(dict.fromkeys(str(name) for row in rows if isinstance(row, dict) for name in row))
        cells = [[_cell(row, name, chance) for name in names] for row in rows]
        text, whole = _table([names, *cells], chance, "\t" if suffix == ".tsv" else ","), False
    data, encoded = _bytes(text, chance)
    if encoded or "\r" in text or chance.random() < 0.4:
        whole = False
        if not encoded:
            data, damage = anyhow(data, _bytes(text, chance)[0], chance)
            told.append(damage)
    whole = whole and data.count(b"\n") + 1 >= 0 and not any(mark in text for mark in ("\u2028", "\x85"))
    options["rows"] = len(rows) if whole and data == text.encode("utf-8", "surrogatepass") else None
    return Case(
        {f"rows{suffix}": data}, f"rows{suffix}", f"{suffix} {'; '.join(told)}{encoded}", options=options
    )


def _cell(row: Any, name: str, chance: random.Random) -> str:
    value = row.get(name) if isinstance(row, dict) else row
    if chance.random() < 0.05:
        return chance.choice(CELLS).replace("\0", "")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


def _pictures(chance: random.Random) -> Case:
    files = {name: b"x" for name in PICTURES}
    options: dict[str, Any] = {"task": "pictures", "strict": chance.random() < 0.2, "rows": None}
    kind = chance.choice(("csv",) * 5 + ("jsonl",) * 2 + ("captions", "kohya", "tsv"))
    if kind in ("captions", "kohya"):
        return _captions(files, kind, chance, options)
    rows = [[name, chance.choice(CAPTIONS)] for name in PICTURES]
    told = []
    for _ in range(chance.choice((0, 1, 1, 3))):
        at = chance.randrange(len(rows))
        what = chance.choice(("cell", "cell", "more", "less", "again", "drop"))
        told.append(what)
        if what == "cell" and rows[at]:
            rows[at][chance.randrange(len(rows[at]))] = chance.choice(CELLS)
        elif what == "more":
            rows[at].append(chance.choice(CELLS))
        elif what == "less" and rows[at]:
            rows[at].pop()
        elif what == "again":
            rows.insert(at, list(rows[at]))
        elif what == "drop" and len(rows) > 1:
            del rows[at]
    if kind == "jsonl":
        made = [dict(zip(("file_name", "text"), row, strict=False)) for row in rows]
        lines = [
            _as_json(_changed(each, chance)[0] if chance.random() < 0.2 else each, chance) for each in made
        ]
        text, name = "\n".join(lines), "metadata.jsonl"
        options["rows"] = len(lines)
    else:
        head = chance.choice(HEADERS)
        table = [list(head), *rows] if head else rows
        text = _table(table, chance, {"csv": chance.choice(",,,;\t"), "tsv": "\t"}[kind])
        name = f"metadata.{kind}"
    data, encoded = _bytes(text, chance)
    if encoded or chance.random() < 0.35:
        options["rows"] = None
        if not encoded:
            data, damage = anyhow(data, b"a.jpg,x\n" * 9, chance)
            told.append(damage)
    if data != text.encode("utf-8", "surrogatepass"):
        options["rows"] = None
    return Case({**files, name: data}, name, f"{kind} {'; '.join(told)}{encoded}", options=options)


def _captions(files: dict[str, bytes], kind: str, chance: random.Random, options: dict[str, Any]) -> Case:
    if kind == "kohya":
        folder = chance.choice(
            ("10_sks dog", "0_x", "3_", "007_风格", "2024_x", "5_ ", "999_a_b", "1_\x1b[31m")
        )
        files = {f"{folder}/{name}": data for name, data in files.items()} | chance.choice(
            ({}, {"loose.png": b"x"})
        )
    told = kind
    for name in list(files):
        if chance.random() < 0.7:
            text = chance.choice((*CAPTIONS, *CELLS, "a\n\nb", "タグ, 夜", "繁體中文說明"))
            data, encoded = _bytes(text, chance)
            if chance.random() < 0.3:
                data, encoded = anyhow(data, data, chance)
            stem = name.rsplit(".", 1)[0]
            files[chance.choice((stem, name)) + chance.choice((".txt", ".txt", ".caption"))] = data
            told += encoded
    if chance.random() < 0.2:
        files["lonely.txt"] = b"x"
    return Case(files, next(iter(files)), told, options=options)


def make(number: int, chance: random.Random) -> Case:
    return (_texts if chance.random() < 0.6 else _pictures)(chance)


def run(case: Case, folder: Path) -> list[Problem]:
    path = case.write(folder)
    found = _read_texts(path, case) if case.options["task"] == "text" else _read_pictures(path, folder, case)
    judge(found, case, whole_file=FILE_WIDE, names=[str(folder)])
    for problem in found:
        _line_exists(problem)
    return found


def _line_exists(problem: Problem) -> None:
    where = problem.where
    if (
        where is None
        or where.line is None
        or not Path(where.file).is_file()
        or where.file.endswith(".parquet")
    ):
        return
    data = Path(where.file).read_bytes()
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    physical = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n") + 1
    if not (wide or 1 <= where.line <= physical):
        raise WrongAnswerError(f"line {where.line} of {physical}: {problem}")


def _read_texts(path: Path, case: Case) -> list[Problem]:
    source = TextSource(str(path), columns=case.options["columns"])
    texts = open_texts([source], on_bad_row="skip" if case.options["skip"] else "stop")
    examples = list(texts)
    found = texts.problems
    if not examples and not found:
        raise WrongAnswerError("nothing read and nothing said")
    for example in examples:
        for turn in (*example.turns, *example.chosen, *example.rejected):
            turn.content.encode()
            if "\0" in turn.content:
                raise WrongAnswerError("a NUL is to be learnt")
    wanted = case.options["rows"]
    if wanted is not None and not {problem.code for problem in found} & LOOSE:
        accounted = len(examples) + sum(texts.left_out.values())
        if accounted != wanted:
            raise WrongAnswerError(f"rows lost in silence: {accounted} of {wanted}")
    if sum(texts.left_out.values()) and not found:
        raise WrongAnswerError("rows left out in silence")
    return found


def _read_pictures(path: Path, folder: Path, case: Case) -> list[Problem]:
    metadata = path if path.name.startswith("metadata.") and path.suffix == ".tsv" else None
    manifest = read_pictures(folder, metadata, strict=case.options["strict"])
    found = manifest.problems
    for example in manifest.examples:
        example.fields["caption"].encode()
        if not Path(example.fields["image"]).resolve().is_relative_to(folder.resolve()):
            raise WrongAnswerError(f"out of the folder: {example.fields['image']}")
    if not manifest.examples and not errors(found):
        raise WrongAnswerError(f"nothing to learn and no error: {listing([p.code for p in found])}")
    wanted = case.options["rows"]
    if wanted is not None:
        named = {problem.where.line for problem in found if problem.where and problem.where.line}
        if len(manifest.examples) + len(named) != wanted and "LS2404" not in {
            problem.code for problem in found
        }:
            raise WrongAnswerError(
                f"rows lost in silence: {len(manifest.examples)} + {len(named)} of {wanted}"
            )
    return found
