"""Row 47: files from Windows and macOS, and consoles and locales that speak no UTF-8.

Names that Windows cannot hold, both Unicode forms, emoji: tests/data/test_file_names.py. Line ends and UTF-16
of rows: tests/data/test_text_sources.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NAME = "风格"
CONFIG = (
    'train_data_dir: "./{folder}"\nbase_model: builtin:demo\noutput_dir: "./out"\nvalidation: {{split: 0}}\n'
)
CHARMAPS = Path("/usr/share/i18n/charmaps")
posix = pytest.mark.skipif(os.name == "nt", reason="locales are of POSIX; Windows is spoken to in UTF-8")


def pictures(folder: Path, rows: str, encoding: str = "utf-8") -> None:
    folder.mkdir(parents=True)
    (folder / "sub").mkdir()
    for number, name in enumerate(("a.png", "sub/b.png", unicodedata.normalize("NFD", "é.png"))):
        Image.new("RGB", (128, 128), (number, 9, 9)).save(folder / name)
    (folder / "metadata.csv").write_bytes(rows.encode(encoding))


def say(tmp_path: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """``python -m lora_scripts...`` as a user types it, with nothing set but what the test sets."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("LC_", "LANG", "PYTHON", "LORA_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "lora_scripts.cli.main", *words],
        env={**kept, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **environment},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )


ROWS = 'file_name,text\r\na.png,"a cat, sitting"\r\nsub\\b.png,夜晚的城市\r\né.png,"two\r\nlines"\r\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk"])
def test_47_a_table_and_a_configuration_from_windows(tmp_path: Path, encoding: str) -> None:
    """CRLF everywhere, backslashes between folders, a byte order mark, names in the other Unicode form."""
    from lora_scripts.config.load import load_config
    from lora_scripts.core.problems import errors
    from lora_scripts.data.manifest import read_pictures

    rows = ROWS if encoding != "gbk" else ROWS.replace("é.png", "sub/../a.png").replace('"a cat', '"a cat', 1)
    pictures(tmp_path / NAME, rows, encoding)
    config = tmp_path / "c.yaml"
    config.write_bytes(("\ufeff" + CONFIG.format(folder=NAME)).replace("\n", "\r\n").encode())
    assert load_config(config).train_data_dir == f"./{NAME}"
    manifest = read_pictures(tmp_path / NAME)
    captions = {example.fields["name"]: example.fields["caption"] for example in manifest.examples}
    assert captions["sub/b.png"] == "夜晚的城市"
    if encoding != "gbk":
        assert errors(manifest.problems) == []
        assert captions == {"a.png": "a cat, sitting", "sub/b.png": "夜晚的城市", "é.png": "two lines"}


@pytest.mark.parametrize(
    "written", ["C:\\\\Users\\\\me\\\\pics", "C:/Users/me/pics", "\\\\\\\\server\\\\share\\\\pics"]
)
def test_47_a_windows_path_on_another_system_is_named_as_it_was_written(
    tmp_path: Path, capsys, written: str
) -> None:
    from lora_scripts.cli import main

    config = tmp_path / "c.yaml"
    config.write_text(
        f'train_data_dir: "{written}"\nbase_model: builtin:demo\noutput_dir: "{tmp_path}/out"\n',
        encoding="utf-8",
    )
    assert main.run(["check", "--config", str(config)]) in (2, 3)
    said = capsys.readouterr().err
    assert written.replace("\\\\", "\\") in said
    assert "Traceback" not in said


@pytest.mark.parametrize("quoted", ['"C:\\new\\time"', '"D:\\table"'])
def test_47_backslashes_that_yaml_takes_for_something_else_are_explained(
    tmp_path: Path, capsys, quoted: str
) -> None:
    from lora_scripts.cli import main

    config = tmp_path / "c.yaml"
    config.write_text(
        f"train_data_dir: {quoted}\nbase_model: builtin:demo\noutput_dir: out\n", encoding="utf-8"
    )
    assert main.run(["check", "--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert f"{config}:1:1 LS1015" in said


@pytest.fixture(scope="session")
def gbk_locale(tmp_path_factory) -> Path:
    """A folder with the locale zh_CN.GBK, made from the system's own sources."""
    if shutil.which("localedef") is None or not CHARMAPS.is_dir():
        pytest.skip("this system has no sources of locales")
    place = tmp_path_factory.mktemp("locales")
    subprocess.run(["localedef", "-c", "-i", "zh_CN", "-f", "GBK", str(place / "zh_CN.GBK")], check=False)
    if not (place / "zh_CN.GBK").is_dir():
        pytest.skip("zh_CN.GBK cannot be made here")
    return place


@posix
def test_47_in_a_chinese_locale_of_gbk_the_console_speaks_chinese_in_gbk(
    tmp_path: Path, gbk_locale: Path
) -> None:
    said = {"LOCPATH": str(gbk_locale), "LC_ALL": "zh_CN.GBK", "PYTHONUTF8": "0"}
    folder = os.fsdecode(NAME.encode("gbk"))  # as a program in that locale names it on disk
    pictures(tmp_path / folder, "a.png,赛博朋克城市\nsub/b.png,夜晚\n")
    (tmp_path / "c.yaml").write_text(CONFIG.format(folder=NAME), encoding="utf-8")
    done = say(tmp_path, "check", "--config", "c.yaml", **said)
    shown = done.stdout.decode("gbk") + done.stderr.decode("gbk")
    assert done.returncode == 0, shown
    assert "图片" in shown
    assert NAME in shown
    (tmp_path / "c.yaml").write_text(CONFIG.format(folder=NAME) + "lora_rnk: 8\n", encoding="utf-8")
    done = say(tmp_path, "check", "--config", "c.yaml", **said)
    assert done.returncode == 2
    assert "lora_rank" in done.stderr.decode("gbk")


LOCALES = {
    "C without UTF-8": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "POSIX": {"LC_ALL": "POSIX"},
    "Latin-1 console": {"PYTHONIOENCODING": "latin-1"},
    "GBK console": {"PYTHONIOENCODING": "gbk", "LORA_SCRIPTS_LANG": "zh"},
    "ASCII console, in Chinese": {"PYTHONIOENCODING": "ascii", "LORA_SCRIPTS_LANG": "zh"},
}
QUICK = ("C without UTF-8", "GBK console")
TOLD = [
    pytest.param(told, marks=() if name in QUICK else pytest.mark.long, id=name)
    for name, told in LOCALES.items()
]


@posix
@pytest.mark.parametrize("told", TOLD)
def test_47_consoles_without_utf8_hear_everything_that_is_wrong(tmp_path: Path, told: dict[str, str]) -> None:
    pictures(tmp_path / "pics", "a.png,赛博朋克城市\nsub/b.png 夜晚\n没有.png,x\n")
    (tmp_path / "c.yaml").write_text(CONFIG.format(folder="pics"), encoding="utf-8")
    done = say(tmp_path, "check", "--config", "c.yaml", **told)
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr
    for code in (b"LS2001", b"LS2030", b"LS2036"):
        assert code in done.stderr
    assert b"LS9001" not in done.stderr


@posix
@pytest.mark.parametrize("told", TOLD)
def test_47_a_path_that_a_locale_cannot_write_is_a_sentence(tmp_path: Path, told: dict[str, str]) -> None:
    """Where file names are ASCII, a folder called 风格 cannot be asked for; elsewhere it is found."""
    pictures(tmp_path / NAME, "a.png,x\nsub/b.png,y\n")
    (tmp_path / "c.yaml").write_text(CONFIG.format(folder=NAME), encoding="utf-8")
    done = say(tmp_path, "check", "--config", "c.yaml", **told)
    assert b"Traceback" not in done.stderr
    assert b"LS9001" not in done.stderr, done.stderr.decode("ascii", "replace")
    assert done.returncode == (0 if "PYTHONUTF8" not in told else 4)
    assert ("PYTHONUTF8" in told) == (b"LS3030" in done.stderr)
