"""Configurations with the mistakes that people, editors and attackers make."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from lora_scripts.config import load as loading
from lora_scripts.config.document import MAX_CONFIG_BYTES
from lora_scripts.config.reference import fields
from lora_scripts.config.schema import RunConfig
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.training.records import config_values

from .case import Case, WrongAnswerError, judge
from .damage import ENCODINGS, anyhow, saved_as

NAME = "configs"
SHIPPED = Path(__file__).parents[2] / "configs"
PICTURES = """\
task_type: image-generation
train_data_dir: "./data/风格"
metadata_path: ./data/metadata.csv
trigger_word: sks
repeats: 2
shuffle_caption: true
keep_tokens: 1
caption_dropout_rate: 0.1
resolution: [512, 768]
background: "#ffffff"
on_bad_image: skip
base_model: builtin:demo
components: {vae: ./models/vae.safetensors}
lora_rank: 8
lora_alpha: 16
lora_dropout: 0.05
target_modules: [to_k, to_v]
rank_pattern: {"mid_block.*": 4}
train_text_encoder: true
text_encoder_learning_rate: 5e-5
min_snr_gamma: 5
batch_size: 4
gradient_accumulation_steps: 2
epochs: 10
learning_rate: 2e-4
lr_scheduler: cosine
warmup_steps: 10
max_grad_norm: 1.0
mixed_precision: fp16
seed: 42
output_dir: ./output/风格
output_name: 风格
save_steps: 100
datasets:
  - path: ./data/one
    repeats: 3
    trigger_word: sks
  - path: ./data/two
    regularization: true
validation:
  split: 0.1
  every_steps: 50
preview:
  prompts:
    - "a street, neon"
    - 夜晚的城市
  seed: 7
logging:
  tensorboard: false
  every_steps: 5
"""
TEXTS = """\
task_type: text-generation
metadata_path: ./data/rows.jsonl
base_model: builtin:demo-chat
output_dir: ./output/voice
columns: {prompt: question, completion: answer}
system: 你是客服。
max_length: 512
on_long_row: split
objective: sft
packing: false
quantization: none
epochs: 3
learning_rate: 1e-4
datasets:
  - path: ./data/rows.jsonl
    weight: 2
preview:
  prompts: [hello]
  max_new_tokens: 64
"""
NUMBERS = (
    "lora_rank",
    "batch_size",
    "epochs",
    "learning_rate",
    "save_steps",
    "seed",
    "lora_dropout",
    "repeats",
)
NO_NUMBER = (
    "many", "true", "[1, 2]", "{a: 1}", ".nan", ".inf", "-.inf", "1e400", "-1", "2026-11-30", "12:30", "''",
    '"8"x', "!!binary aGk=", "8 9", "８", "1_0 0", "0x" + "f" * 5000, "9" * 5000, "1" + "0" * 400, "a: b",
    "yes", "1;2",
)  # fmt: skip
ODD = (
    *NO_NUMBER, "0", "~", "null", '"\\ud800"', '"\\x00"', '"\\e[31m"', '"a\\tb"', '"C:\\new"',
    "!!set {a, b}", "!!omap [a: 1]", "!!float abc", "!!int abc", "!!timestamp abc", "2026-13-45",
    "2001-12-14t21:59:43.10-05:00", "!!python/object/apply:os.system [touch canary]",
    "!!python/name:os.system", "!custom x", "!!null x", "&a [*a]", "&a {b: *a}", "*missing", "[" * 400,
    "[" * 400 + "]" * 400, "{a: " * 400 + "}" * 400, "{" * 20000, "[" * 20000, "- " * 5000, "{{name}}",
    "| \n  text", ">+\n\n  text", "? x", "- x", "@x", "`x", "%x", "'unclosed", '"unclosed', "“quoted”", "，",
    "1_000", "+.5", "0755", "0o17", "0b101", "on", "🙂", "\u2028", "\u00a0", "\u200b", "\x85", "\x1b[2J",
    "\x07", "a" * 20000, "字" * 5000, "!!str 1", "!!bool maybe", "!<tag:x> 1", "<<", "=", "\\", "CON", "a/b",
    "../..", "C:\\Users\\me", "\\\\server\\share", "/dev/zero", "~nobody/x", "\ufeff8", "{8: 8, '8': 9}",
)  # fmt: skip
BLOCKS = (
    "<<: *all\n", "? [a, b]\n: c\n", "? {a: b}\n: c\n", "1: a\n'1': b\n", "null: 1\n", "true: 1\n",
    "1.5: 2\n", "2026-11-30: 1\n", "---\nepochs: 3\n", "...\nepochs: 3\n", "%YAML 1.1\n---\n",
    "%TAG ! tag:x,2000:\n", "- a\n", "x: &a [*a]\n", "x: &a {y: *a}\n", "&a : b\n", "? x\n", ": y\n",
    "“epochs”: 3\n", "epochs：3\n", "epochs:3\n", "\tepochs: 3\n", " epochs: 3\n", "validation: 3\n",
    "preview: [a]\n", "datasets: x\n", "datasets: [3, null, {}]\n", "datasets: {path: a}\n",
    "logging:\n  - a\n", "validation:\n  validation:\n    split: 1\n", "\x1bkey: 1\n", "\"\\ud800\": 1\n",
    "\"\\x1b[2J\": 1\n", "\"\\0\": 1\n", "\"a\\nb\": 1\n", "'': 1\n", "k" * 3000 + ": 1\n",
    "datasets:\n" + "  - path: x\n    nonsense: 1\n" * 300, "preview: {prompts: ['', 3, null]}\n",
)  # fmt: skip
SETS = (
    "lora_rank=x", "validation.split=9", "validation=3", "validation.split.deep=1", "=1", "x", "a.b.c.d=1",
    ".=1", "..=", "learning_rate=&a [*a]", "learning_rate=[[[[", "epochs=!!int abc", "max_steps=3",
    "datasets.path=1", "seed=" + "9" * 5000, "preview.prompts=[a, b]", "output_dir=\x00",
    "base_model=<<: *a", "lora_rank={<<: {a: 1}}", "x=" + "[" * 20000, "train_data_dir=2026-13-45",
    "lora_rank=1: 2\n1: 3", "system=\ud800", "\x1b[2J=1", "validation.data_dir=x",
)  # fmt: skip
WHOLE_FILE = frozenset(("LS1001", "LS1008", "LS1012"))
_KEY = re.compile(r"^(\s*(?:- )?)([a-z_]+):(?=\s|$)(.*)$")
Edit = Callable[[list[str], random.Random], "tuple[list[str], str, frozenset[str], int | None]"]


@cache
def originals() -> tuple[str, ...]:
    """Every shipped configuration, as it is and without its comments, and two that use most keys."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(SHIPPED.glob("*.yaml"))]
    bare = [
        "".join(line for line in text.splitlines(keepends=True) if line.lstrip()[:1] != "#") for text in texts
    ]
    return (*texts, *bare * 3, *[PICTURES, TEXTS] * 8)


@cache
def _known() -> frozenset[str]:
    return frozenset(part for name, _ in fields() for part in name.split("."))


def _keys(lines: list[str]) -> list[tuple[int, str, str, str]]:
    """Index, indentation, key and the rest of each line that sets a key of ours."""
    found = ((number, _KEY.match(line)) for number, line in enumerate(lines))
    return [(number, m[1], m[2], m[3]) for number, m in found if m and m[2] in _known()]


def _typo(key: str, chance: random.Random) -> str:
    at = chance.randrange(len(key))
    way = chance.choice(("drop", "double", "swap", "other", "capital", "dash", "end"))
    return {
        "drop": key[:at] + key[at + 1 :],
        "double": key[:at] + key[at] + key[at:],
        "swap": key[: at - 1] + key[at] + key[at - 1] + key[at + 1 :] if at else key[::-1],
        "other": key[:at] + chance.choice(string.ascii_lowercase) + key[at + 1 :],
        "capital": key.upper(),
        "dash": key.replace("_", "-") if "_" in key else key + "-",
        "end": key + "s",
    }[way]


def misspell(lines: list[str], chance: random.Random) -> Any:
    number, indent, key, rest = chance.choice(_keys(lines))
    wrong = _typo(key, chance)
    if wrong in _known() or not wrong:
        return lines, "nothing", frozenset(), None
    changed = [*lines[:number], f"{indent}{wrong}:{rest}", *lines[number + 1 :]]
    return changed, f"key {key} written {wrong}", frozenset(("LS1006", "LS1007")), number + 1


def wrong_type(lines: list[str], chance: random.Random) -> Any:
    places = [entry for entry in _keys(lines) if entry[2] in NUMBERS and not entry[1]]
    if not places:
        return lines, "nothing", frozenset(), None
    number, indent, key, _ = chance.choice(places)
    value = chance.choice(NO_NUMBER)
    changed = [*lines[:number], f"{indent}{key}: {value}", *lines[number + 1 :]]
    codes = frozenset(("LS1016", "LS1003", "LS1002", "LS1006", "LS1007"))
    return changed, f"{key}: {value[:40]}", codes, None


def twice(lines: list[str], chance: random.Random) -> Any:
    number, _, key, rest = chance.choice([entry for entry in _keys(lines) if not entry[1]])
    at = chance.choice((number, len(lines)))
    return [*lines[:at], f"{key}:{rest}", *lines[at:]], f"{key} twice", frozenset(("LS1005", "LS1003")), None


def odd_value(lines: list[str], chance: random.Random) -> Any:
    number, indent, key, _ = chance.choice(_keys(lines))
    value = chance.choice(ODD)
    changed = [*lines[:number], f"{indent}{key}: {value}", *lines[number + 1 :]]
    return changed, f"{key}: {value[:40]!r}", frozenset(), None


def odd_block(lines: list[str], chance: random.Random) -> Any:
    block = chance.choice(BLOCKS)
    at = chance.choice((0, len(lines), chance.randrange(len(lines) + 1)))
    return (
        [*lines[:at], *block.rstrip("\n").split("\n"), *lines[at:]],
        f"block {block[:40]!r}",
        frozenset(),
        None,
    )


def full_width(lines: list[str], chance: random.Random) -> Any:
    number = chance.choice(_keys(lines))[0]
    old, new = chance.choice(
        ((":", "："), (",", "，"), (" ", "　"), ('"', "“"), ("#", "＃"), ("-", "－"), ("[", "【"))
    )
    return (
        [*lines[:number], lines[number].replace(old, new, 1), *lines[number + 1 :]],
        f"{new}",
        frozenset(),
        None,
    )


def indented(lines: list[str], chance: random.Random) -> Any:
    number = chance.choice(_keys(lines))[0]
    by = chance.choice(("\t", " ", "  ", "\t\t", " \t", "\u00a0", "\u3000"))
    return (
        [*lines[:number], by + lines[number], *lines[number + 1 :]],
        f"indented by {by!r}",
        frozenset(),
        None,
    )


def bomb(lines: list[str], chance: random.Random) -> Any:
    """Few bytes that unfold to more than any memory."""
    depth, wide = chance.choice(((9, 10), (25, 3), (60, 2), (3, 4)))
    made = ["x0: &x0 [" + ", ".join("a" * wide) + "]"]
    for level in range(1, depth):
        made.append(f"x{level}: &x{level} [" + ", ".join([f"*x{level - 1}"] * wide) + "]")
    if chance.random() < 0.3:
        made.append(f"columns: {{a: *x{depth - 1}}}")
    if chance.random() < 0.3:
        made = [line.replace("[", "{a: ", 1)[:-1].split(",")[0] + "}" for line in made]
        made[1:] = [
            f"x{n}: &x{n} {{<<: *x{n - 1}, b{n}: *x{n - 1}, c{n}: *x{n - 1}}}" for n in range(1, depth)
        ]
    return [*made, *lines], f"alias bomb {wide}^{depth}", frozenset(), None


def nested(lines: list[str], chance: random.Random) -> Any:
    depth = chance.choice((30, 400, 3000, 60_000))
    opened, closed = chance.choice((("[", "]"), ("{a: ", "}")))
    text = "x: " + opened * depth + (closed * depth if chance.random() < 0.5 else "")
    return [*lines, text], f"{depth} deep", frozenset(("LS1003", "LS1007", "LS1006")), None


EDITS: tuple[tuple[int, Edit], ...] = (
    (5, misspell), (4, wrong_type), (2, twice), (6, odd_value), (4, odd_block), (2, full_width),
    (2, indented), (1, bomb), (1, nested),
)  # fmt: skip
_WEIGHTS = [weight for weight, _ in EDITS]


def make(number: int, chance: random.Random) -> Case:
    text = chance.choice(originals())
    options: dict[str, Any] = {"overrides": []}
    if chance.random() < 0.25:
        data, told = anyhow(text.encode(), chance.choice(originals()).encode(), chance)
        return Case({"c.yaml": data}, "c.yaml", told, options=options)
    lines = text.splitlines()
    count = chance.choice((1, 1, 1, 2, 3))
    said, expected, line = [], frozenset[str](), None
    for _, edit in chance.choices(EDITS, _WEIGHTS, k=count):
        if not _keys(lines):
            break
        lines, what, expected, line = edit(lines, chance)
        said.append(what)
    if count > 1:
        expected, line = frozenset(), None
    if chance.random() < 0.1:
        options["overrides"] = chance.sample(SETS, chance.choice((1, 1, 3)))
        said.append(f"--set {options['overrides']!r}"[:80])
        expected, line = frozenset(), None
    if chance.random() < 0.05:
        options["output_dir"] = chance.choice(("a'b", "a\nb", "\x00", "🙂", "a\ud800", "", ": {", "C:\\new"))
    end = chance.choice(("\n",) * 8 + ("\r\n", "\r\n", "\r"))
    whole = end.join(lines) + end
    if chance.random() < 0.1:
        encoding = chance.choice(ENCODINGS)
        return Case(
            {"c.yaml": saved_as(whole, encoding)},
            "c.yaml",
            f"{'; '.join(said)} in {encoding}",
            options=options,
        )
    data = whole.encode("utf-8", "replace")
    if len(data) > MAX_CONFIG_BYTES:
        expected, line = frozenset(("LS1012",)), None
    return Case({"c.yaml": data}, "c.yaml", "; ".join(said), expected, line, options)


def run(case: Case, folder: Path) -> list[Problem]:
    path = case.write(folder)
    try:
        config = loading.load_config(path, **case.options)
    except ProblemsError as error:
        found = error.problems
    else:
        found = []
        _reads_back(config, folder)
    if (folder / "canary").exists() or Path("canary").exists():
        raise WrongAnswerError("the canary: a program in the file ran")
    of_line = {f"--set {text}" for text in case.options["overrides"]} | {"--set", "--output-dir"}
    in_file = [each for each in found if not (each.where and each.where.file in of_line)]
    judge(in_file, case, whole_file=WHOLE_FILE, names=[str(path)])
    judge(
        [each for each in found if each not in in_file],
        Case({}, "", ""),
        whole_file=frozenset(each.code for each in found),
        names=["--set", "--output-dir"],
    )
    return found


def _reads_back(config: RunConfig, folder: Path) -> None:
    """What is accepted is said again by the file that a run keeps of it."""
    kept = folder / "kept.yaml"
    kept.write_text(loading.dump_yaml(config_values(config)), encoding="utf-8")
    try:
        again = loading.load_config(kept)
    except ProblemsError as error:
        raise WrongAnswerError(f"accepted, and its own copy is refused: {error}") from None
    if config_values(again) != config_values(config):
        raise WrongAnswerError("accepted, and its own copy means something else")
