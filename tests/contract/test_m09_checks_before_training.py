"""M9: before training everything is checked, and errors say what and where."""

import shutil

import pytest

from tests.contract.conftest import draw_pictures


def test_m09_a_missing_comma_is_named_with_its_line(make_desk):
    desk = make_desk()
    rows = draw_pictures(desk.root / "pics", 60)
    lines = [f'{name},"{caption}"' for name, caption in rows]
    lines[44] = lines[44].replace(",", " ", 1)
    lines[50] = lines[50].replace(",", "", 1)
    (desk.root / "pics" / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = desk.train(desk.config())
    assert done.code == 3, done.text
    assert "metadata.csv:45 LS2" in done.err
    assert "Line 45: Invalid format" in done.err
    assert "Line 51: Invalid format" in done.err
    assert "Traceback" not in done.text
    assert not (desk.root / "output").exists(), "nothing was started"


def test_m09_a_misspelled_key_is_named_with_line_and_suggestion(desk):
    path = desk.config()
    path.write_text(path.read_text(encoding="utf-8") + "learning_rte: 1e-4\n", encoding="utf-8")
    number = len(path.read_text(encoding="utf-8").splitlines())
    done = desk.train(path)
    assert done.code == 2
    assert f"run.yaml:{number}:1 LS1006 unknown key 'learning_rte': did you mean 'learning_rate'?" in done.err


def test_m09_a_broken_picture_stops_the_run_by_name_or_is_skipped_on_request(make_desk):
    desk = make_desk()
    whole = (desk.root / "pics" / "img03.png").read_bytes()
    (desk.root / "pics" / "img03.png").write_bytes(whole[: len(whole) // 2])
    (desk.root / "pics" / "img05.png").write_bytes(b"<!DOCTYPE html><html>404</html>")
    done = desk.train(desk.config())
    assert done.code == 3
    assert "img03.png" in done.err
    assert "img05.png" in done.err
    skipped = desk.cli("check", "--config", desk.config(on_bad_image="skip"))
    assert skipped.code == 0, skipped.text


def test_m09_everything_wrong_is_said_at_once(make_desk):
    desk = make_desk()
    (desk.root / "pics" / "img01.png").unlink()
    done = desk.cli("check", "--config", desk.config(base_model="./models/none.safetensors"))
    assert "none.safetensors" in done.err
    assert "img01.png" in done.err
    assert done.code in (2, 3)
    assert "Traceback" not in done.text


def test_m09_messages_come_in_chinese_too(desk):
    done = desk.train(desk.config(lora_rnk=1), "--lang", "zh")
    assert "未知的键“lora_rnk”：是否想写“lora_rank”？" in done.err


def test_m09_the_plan_is_printed_in_numbers(desk):
    done = desk.cli("check", "--config", desk.config())
    assert done.code == 0, done.text
    assert "20" in done.out, "pictures to train on"
    assert "8" in done.out, "steps"


@pytest.mark.parametrize("name", ["数据 集", pytest.param("with space", marks=pytest.mark.long)])
def test_m09_chinese_names_and_spaces_work(make_desk, name):
    desk = make_desk()
    shutil.move(desk.root / "pics", desk.root / name)
    done = desk.train(desk.config(train_data_dir=f"./{name}", output_dir=f"./输出/{name}", max_steps=1))
    assert done.code == 0, done.text
    assert (desk.root / "输出" / name / f"{name}.safetensors").exists()
