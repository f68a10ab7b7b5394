"""A user's desk: a folder of pictures, a small base, a YAML, and the command line in a process of its own."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
UNREACHABLE = "http://127.0.0.1:9"


def environment(**more: str) -> dict[str, str]:
    """No hub, no proxy, one thread, English."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("LORA_", "HF_"))}
    fixed = {
        "HF_ENDPOINT": UNREACHABLE,
        "HTTP_PROXY": UNREACHABLE,
        "HTTPS_PROXY": UNREACHABLE,
        "LORA_SCRIPTS_LANG": "en",
        "OMP_NUM_THREADS": "1",
    }
    return {**clean, **fixed, **more}


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


def process(*words: object, cwd: Path, **env: str) -> Done:
    """Runs ``python WORDS`` from ``cwd`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=environment(**env),
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def command(*words: object, cwd: Path) -> Done:
    """The same command line without the seconds that a process needs to import everything."""
    from lora_scripts.cli.main import run
    from lora_scripts.core.catalogue import use_language

    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    use_language("en")
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([str(word) for word in words])
    finally:
        use_language(None)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Done(code, out.getvalue(), err.getvalue())


def draw_pictures(folder: Path, count: int, sizes=((16, 16), (24, 16), (16, 24))) -> list[tuple[str, str]]:
    """Coloured squares on coloured grounds, with captions; returns (file name, caption) rows."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(5)
    rows = []
    for number in range(count):
        width, height = sizes[number % len(sizes)]
        pixels = np.empty((height, width, 3), np.uint8)
        pixels[:] = random.integers(0, 256, 3)
        pixels[4:10, 3:9] = random.integers(0, 256, 3)
        name = f"img{number:02d}.png"
        Image.fromarray(pixels).save(folder / name)
        rows.append((name, f"a red house, number {number}"))
    return rows


def write_csv(path: Path, rows) -> None:
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(("file_name", "text"))
        writer.writerows(rows)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    from tests.families.tiny import write_folder

    return write_folder(tmp_path_factory.mktemp("base") / "tiny-sd")


@dataclass
class Desk:
    """A working directory with pictures and a base; ``train`` and ``check`` are what a user types."""

    root: Path
    base: Path

    def config(self, name: str = "run.yaml", **changes: object) -> Path:
        values: dict[str, object] = {
            "train_data_dir": "./pics",
            "base_model": str(self.base),
            "lora_rank": 4,
            "batch_size": 4,
            "max_steps": 8,
            "learning_rate": 2e-3,
            "output_dir": "./output/my_style",
            "save_steps": 4,
            "cache_dir": "./cache",
            "mixed_precision": "no",
            "validation": {"split": 0.1},
            **changes,
        }
        lines = [f"{key}: {json.dumps(value)}" for key, value in values.items() if value is not None]
        path = self.root / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def train(self, config: Path | str, *more: object) -> Done:
        return command("train", "--config", config, *more, cwd=self.root)

    def cli(self, *words: object) -> Done:
        return command(*words, cwd=self.root)

    def result(self, output: str = "output/my_style") -> dict:
        return json.loads((self.root / output / "result.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def make_desk(tmp_path_factory, tiny_base) -> Callable[[], Desk]:
    def make() -> Desk:
        root = tmp_path_factory.mktemp("desk")
        write_csv(root / "pics" / "metadata.csv", draw_pictures(root / "pics", 22))
        return Desk(root, tiny_base)

    return make


@pytest.fixture(scope="module")
def desk(make_desk) -> Desk:
    return make_desk()


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_base) -> Desk:
    """One finished run with previews, that several rows look at; M1 has the same from a shell."""
    root = tmp_path_factory.mktemp("trained")
    write_csv(root / "pics" / "metadata.csv", draw_pictures(root / "pics", 22))
    desk = Desk(root, tiny_base)
    preview = {"prompts": ["a red house", "a blue house"], "steps": 2, "width": 16, "height": 16}
    config = desk.config(preview=preview, trigger_word="mystyle", lora_alpha=2)
    done = desk.train(config.name)
    assert done.code == 0, done.text
    return desk


QUESTIONS = ("Where is my parcel", "How long is the guarantee", "When do you open", "Can I return a kettle")


def write_rows(path: Path, count: int = 24) -> None:
    """Question-answer pairs in OpenAI's form, all different."""
    with open(path, "w", encoding="utf-8") as handle:
        for number in range(count):
            turns = [
                {"role": "user", "content": f"{QUESTIONS[number % 4]}, please? I am customer {number}."},
                {"role": "assistant", "content": f"Dear customer {number}, within two days. 请放心。"},
            ]
            handle.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")


@pytest.fixture(scope="session")
def tiny_chat_base(tmp_path_factory) -> Path:
    from tests.texts.small import write_model

    return write_model(tmp_path_factory.mktemp("chat") / "tiny-chat", "llama")


@dataclass
class TextDesk(Desk):
    """The same desk with rows of text and a small language model."""

    def config(self, name: str = "run.yaml", **changes: object) -> Path:
        values: dict[str, object] = {
            "task_type": "text-generation",
            "metadata_path": "./rows.jsonl",
            "base_model": str(self.base),
            "lora_rank": 4,
            "batch_size": 4,
            "max_steps": 8,
            "learning_rate": 2e-3,
            "output_dir": "./output/voice",
            "save_steps": 4,
            "cache_dir": "./cache",
            "mixed_precision": "no",
            **changes,
        }
        lines = [f"{key}: {json.dumps(value)}" for key, value in values.items() if value is not None]
        path = self.root / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def result(self, output: str = "output/voice") -> dict:
        return super().result(output)


@pytest.fixture(scope="module")
def make_text_desk(tmp_path_factory, tiny_chat_base) -> Callable[[], TextDesk]:
    def make() -> TextDesk:
        root = tmp_path_factory.mktemp("text")
        write_rows(root / "rows.jsonl")
        return TextDesk(root, tiny_chat_base)

    return make


@pytest.fixture(scope="module")
def text_desk(make_text_desk) -> TextDesk:
    return make_text_desk()


@pytest.fixture(scope="session")
def trained_voice(tmp_path_factory, tiny_chat_base) -> TextDesk:
    """One finished text run with previews, that several rows look at; M5 has the same from a shell."""
    root = tmp_path_factory.mktemp("voice")
    write_rows(root / "rows.jsonl")
    desk = TextDesk(root, tiny_chat_base)
    config = desk.config(preview={"prompts": ["Where is my parcel?"], "max_new_tokens": 8})
    done = desk.train(config.name)
    assert done.code == 0, done.text
    (root / "said.txt").write_text(done.text, encoding="utf-8")
    return desk
