"""Tables at the start of ``.safetensors`` files that lie, and other files under that name."""

from __future__ import annotations

import contextlib
import io
import json
import random
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.cli.inspect import report_lines
from lora_scripts.core.catalogue import LANGUAGES, use_language
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.export.earlier import fitted
from lora_scripts.export.tensors_file import read_tensors
from lora_scripts.families._header import read_header
from lora_scripts.families._source import find, resolve
from lora_scripts.toolbox.inspect import config_yaml, inspect_file

from .case import CONTROL, Case, WrongAnswerError, judge
from .damage import anyhow
from .weights import Table, demo, entries, originals

NAME = "headers"
REFUSED = frozenset(("LS4003", "LS4004", "LS4005", "LS4029"))


NUMBERS: tuple[Any, ...] = (
    -1, 0, 1, 2**31, 2**63, 2**64, 10**30, 1.5, 1e400, float("nan"), "4", "", None, True, [], [4], {},
    [-1, 4], [4, "x"], [2**40, 2**40], [0, 2**62], [1] * 400, [[4, 64]], "4x64", [4.0, 64], [None], [1e400],
    [float("nan")], [True, 4], [10**30],
)  # fmt: skip
KINDS: tuple[Any, ...] = (
    "F16",
    "BF16",
    "I8",
    "F8_E4M3",
    "F4",
    "",
    "x",
    "\x1b[31m",
    None,
    3,
    ["F16"],
    {},
    "f16",
    "C64",
    "BOOL",
    "U64",
)
METADATA: tuple[Any, ...] = (
    [], "x", 3, None, {"a": 1}, {"a": None}, {"a": {"b": 1}}, {"format": "pt"},
    {"ss_base_model_version": 3}, {"x": "y" * 50_000},
    {"ss_output_name": "\x1b[2J", "modelspec.title": "\x07"},
    {"modelspec.trigger_phrase": "\x1b]0;x\x07" * 50},
    {"ss_base_model_version": "sd_v1", "ss_network_dim": "x", "ss_network_alpha": "NaN"},
    {"lora_scripts_config": "[" * 50_000},
    {"lora_scripts_config": '{"output_name": "x", "train_data_dir": 3, "nonsense": {"a": [1]}}'},
    {"lora_scripts_config": "{"},
    {"lora_scripts_config": '{"output_name": ["x"], "\\u001b[2J": "\\u001b", "a": 1e999}'},
    {"lora_scripts_config": "[1]"}, {"ss_tag_frequency": "{" * 9000},
    {"ss_steps": "x" * 9000, "ss_resolution": "\n\n\n"}, {"\ud800": "\ud800"}, {"": ""},
)  # fmt: skip
NAMES = (
    "", "x", "__metadata__", "input_blocks.x.0.weight", "input_blocks.-1.0.weight",
    "input_blocks.99999999999999999999.0.weight", "encoder.down.9.block.0.conv1.weight",
    "\x1b[31m.lora_down.weight", "../../x.lora_A.weight", "a" * 5000, "\ud800", "lora_unet_",
    ".lora_down.weight", ".alpha", "lora_unet_x.lora_down.weight", "unet:x:down",
    "text_model.encoder.layers.x.self_attn.q_proj.weight", "model.diffusion_model.joint_blocks.x.y",
    "model.diffusion_model.double_blocks..x", "lora_te_x.alpha", "风格", "a.hada_w1_a", "\n",
)  # fmt: skip


def _pickle() -> bytes:
    """What a pickle that runs a program looks like; nothing here ever opens it."""
    program = b"\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x0ctouch canary\x94\x85\x94R\x94."
    return b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00" + program


@cache
def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", _pickle())
    return buffer.getvalue()


def _disguised(chance: random.Random) -> bytes:
    return chance.choice((
        _pickle(), _zip(), _pickle()[:2] + bytes(6) + b"{}", b"GGUF\x03\0\0\0", b"<!DOCTYPE html>",
        b"version https://git-lfs.github.com", b"", bytes(8), bytes(100), b"\xff" * 100, b"{}",
        (10).to_bytes(8, "little") + b"[1,2,3,4] ", (4).to_bytes(8, "little") + b"null",
        (2).to_bytes(8, "little") + b'""', b"PK\x05\x06" + bytes(18), (1).to_bytes(8, "little") + b"{",
    ))  # fmt: skip


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(number, int) for number in value)


def _strange(table: Table, chance: random.Random) -> str:
    """One entry of the table made wrong in place; returns what was done."""
    names = [name for name in table if name != "__metadata__" and isinstance(table[name], dict)]
    what = chance.choice(
        (
            "shape",
            "shape",
            "offsets",
            "offsets",
            "dtype",
            "entry",
            "name",
            "name",
            "metadata",
            "metadata",
            "more",
        )
    )
    if what == "metadata":
        table["__metadata__"] = chance.choice(METADATA)
    elif what == "more" or not names:
        table[chance.choice(NAMES)] = {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}
    elif what == "name":
        # one name for another of the same length keeps the table in order
        name = chance.choice(names)
        table[chance.choice(NAMES)] = table.pop(name)
    else:
        entry = table[chance.choice(names)]
        if what == "shape":
            entry["shape"] = chance.choice(NUMBERS)
        elif what == "dtype":
            entry["dtype"] = chance.choice(KINDS)
        elif what == "offsets":
            start, end = entry["data_offsets"] if _is_pair(entry.get("data_offsets")) else (0, 4)
            odd = (
                [end, start],
                [start, end + 2],
                [start + 2, end],
                [0, 0],
                [start, start],
                [-1, end],
                [start],
                chance.choice(NUMBERS),
            )
            entry["data_offsets"] = chance.choice(odd)
        else:
            key = chance.choice([*entry, ""])
            if key and chance.random() < 0.5:
                del entry[key]
            else:
                table[chance.choice(names)] = chance.choice(NUMBERS)
    return what


def _reshaped(table: Table, chance: random.Random) -> Table:
    """Shapes that a library takes and no base has, with offsets that fit them."""
    shapes = {name: tuple(entry["shape"]) for name, entry in table.items()}
    for name in chance.sample(sorted(shapes), min(len(shapes), chance.choice((1, 1, 3, 99)))):
        shapes[name] = chance.choice(
            ((), (0,), (1,), (3, 0), (4, 4, 4, 4, 4), (7, 64), (1, 1), shapes[name][::-1])
        )
    for name in chance.sample(sorted(shapes), min(len(shapes), chance.choice((0, 0, 1, 4)))):
        del shapes[name]
    return entries(shapes, "F32", 4)


def _length(table: Table) -> int:
    ends = [0]
    for entry in table.values():
        with contextlib.suppress(KeyError, TypeError, IndexError, ValueError, OverflowError):
            ends.append(int(entry["data_offsets"][1]))
    return max(ends) if 0 <= max(ends) < 2**32 else 0


def make(number: int, chance: random.Random) -> Case:
    name, original = chance.choice(originals())
    table = json.loads(json.dumps(original))
    if chance.random() < 0.06:
        return Case({"m.safetensors": _disguised(chance)}, "m.safetensors", "disguised", REFUSED)
    told = [name]
    way = chance.choice(("strange", "strange", "strange", "reshaped", "raw", "raw", "intact"))
    if way == "reshaped":
        table = _reshaped(table, chance)
    elif way == "strange":
        told += [_strange(table, chance) for _ in range(chance.choice((1, 1, 2, 4)))]
    text = json.dumps(table, ensure_ascii=chance.random() < 0.5)
    if chance.random() < 0.05:
        text = chance.choice(
            (
                "[" * 60_000,
                '{"a":' * 60_000,
                text[:-1] + "," + text[1:],
                text + text,
                text[:-1] + ',"x":' + "9" * 9000 + "}",
            )
        )
    raw = text.encode("utf-8", "surrogatepass")
    if way == "raw":
        raw, damage = anyhow(raw, json.dumps(chance.choice(originals())[1]).encode(), chance)
        told.append(damage)
    length = len(raw)
    if chance.random() < 0.1:
        length = chance.choice(
            (0, 1, 8, length - 1, length + 1, length * 2, 2**31, 2**63, 2**64 - 1, 99_999_999, 100_000_001)
        )
        told.append(f"length {length}")
    data = max(0, length).to_bytes(8, "little") + raw
    size = len(data) + _length(table) + chance.choice((0,) * 12 + (-1, 1, -100, 8))
    if size - len(data) <= 2**20:
        data = (data + bytes(max(0, size - len(data))))[: max(0, size)]
        size = 0
    suffix = chance.choice((".safetensors",) * 9 + (".pti",))
    return Case({f"m{suffix}": data}, f"m{suffix}", f"{', '.join(told)}: {way}", size=size)


def run(case: Case, folder: Path) -> list[Problem]:
    path = case.write(folder)
    found: list[Problem] = []
    sound = _read(path, found)
    for act in (_inspect, _open_as_base, _go_on_from):
        try:
            act(path)
        except ProblemsError as error:
            found += error.problems
    if not sound and not found:
        raise WrongAnswerError("the library refuses it and nothing was said")
    if (folder / "canary").exists() or Path("canary").exists():
        raise WrongAnswerError("the canary: a program in the file ran")
    judge(found, case, whole_file=frozenset(each.code for each in found), names=[path.name])
    return found


def _read(path: Path, found: list[Problem]) -> bool:
    """Whether the safetensors library takes the file: what it refuses, we refuse by name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as handle:
            names = set(handle.keys())
        taken = True
    except (SafetensorError, OSError):
        names, taken = set(), False
    try:
        header = read_header(path)
    except ProblemsError as error:
        found += error.problems
        if taken:
            raise WrongAnswerError(f"the library takes it and we refuse it: {error}") from None
        return False
    if not taken:
        raise WrongAnswerError("we take its header and the library refuses the file")
    if set(header.shapes) != names:
        raise WrongAnswerError("the library finds other names")
    if header.size < 2**20:
        read_tensors(path)
    return True


def _inspect(path: Path) -> None:
    report = inspect_file(path)
    json.dumps(report.to_json(), ensure_ascii=False).encode()
    for language in LANGUAGES:
        use_language(language)
        for line in report_lines(report):
            if CONTROL.search(line):
                raise WrongAnswerError(f"control characters: {line!r}")
            line.encode()
    use_language("en")
    config_yaml(report)


def _open_as_base(path: Path) -> None:
    source = resolve(str(path))
    find("auto", source).describe(source)


def _go_on_from(path: Path) -> None:
    family, description, matched = demo()
    fitted(path, family, description.modules, matched, AdapterSpec(rank=4, alpha=4.0))
