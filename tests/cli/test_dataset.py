"""``lora-scripts dataset check`` as a user types it."""

from __future__ import annotations

import json

import pytest

from lora_scripts.cli.dataset import settings_for
from lora_scripts.cli.main import run
from tests.doctor.pictures import photo, save

CONFIG = """\
train_data_dir: "./data"
base_model: builtin:demo
output_dir: "./output/x"
resolution: 256
batch_size: 2
trigger_word: neon
caption_prefix: "a picture of"
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "data", {f"{n}.png": photo(n) for n in range(4)}, {})
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


def test_a_clean_folder(home, capsys):
    assert run(["dataset", "check", "data", "--config", "c.yaml"]) == 0
    told = capsys.readouterr().out
    assert "4 pictures looked at in data: 4 readable, 4 with a caption." in told
    assert "Nothing to mend was found." in told
    assert (home / "output" / "dataset-check" / "data" / "report.html").is_file()
    assert sorted(path.name for path in (home / "data").iterdir()) == [
        *(f"{n}.png" for n in range(4)),
        "metadata.csv",
    ]


def test_what_stops_a_run_is_exit_code_3_and_advice_is_0(home, capsys):
    (home / "data" / "1.png").write_bytes((home / "data" / "0.png").read_bytes())
    assert run(["dataset", "check", "data", "--config", "c.yaml", "--output", "seen"]) == 0
    assert "LS3204 [advice]" in capsys.readouterr().out
    (home / "data" / "1.png").write_bytes(b"nothing of a picture")
    assert run(["dataset", "check", "data", "--config", "c.yaml", "--output", "seen"]) == 3
    told = capsys.readouterr().out
    assert "LS3200 [stops]" in told
    assert "A training run would stop" in told
    assert run(["dataset", "check", "nowhere"]) == 3


def test_json_is_all_that_is_printed(home, capsys):
    assert (
        run(["dataset", "check", "data", "--config", "c.yaml", "--trigger", "sks", "--json", "--crops"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((home / "output/dataset-check/data/report.json").read_text(encoding="utf-8"))
    assert told["settings"]["crops"] == "cross-correlation"
    assert told["settings"]["resolution"] == 256


def test_a_report_inside_the_data_is_refused_before_anything_is_read(home, capsys):
    assert run(["dataset", "check", "data", "--output", "data/report"]) == 2
    assert "inside the data folder" in capsys.readouterr().err
    assert not (home / "data" / "report").exists()


def test_another_word_than_check_is_refused(home, capsys):
    assert run(["dataset", "mend", "data"]) == 2
    assert "dataset check DIR" in capsys.readouterr().err


def test_in_chinese(home, capsys):
    assert run(["--lang", "zh", "dataset", "check", "data", "--config", "c.yaml"]) == 0
    assert "没有发现需要改进的地方" in capsys.readouterr().out


def test_the_configuration_says_how_pictures_are_judged(home):
    found = settings_for(home / "data", home / "c.yaml")
    assert (found.resolution, found.batch_size, found.step) == (256, 2, 32)
    assert found.wording.plain("a cat") == "neon, a picture of a cat"
    other = settings_for(home / "elsewhere", home / "c.yaml", trigger="sks", crops=True)
    assert (other.trigger, other.crops, other.metadata) == ("sks", True, None)
    assert other.wording.trigger == "neon"


def test_a_broken_configuration_is_said_first(home, capsys):
    (home / "c.yaml").write_text(CONFIG + "lora_rnk: 8\n", encoding="utf-8")
    assert run(["dataset", "check", "data", "--config", "c.yaml"]) == 2
    assert "lora_rnk" in capsys.readouterr().err
    assert not (home / "output").exists()
