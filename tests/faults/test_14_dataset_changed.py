"""Fault 14, the data changed since the checkpoint: refused, the first of what changed is named, and the ways
out; what is learnt being the same, files may be renamed, moved and reformatted."""

import json

import pytest
from PIL import Image

from tests.contract.conftest import write_csv
from tests.faults.conftest import weights

OPTIONS = dict(
    max_steps=4, save_steps=2, output_name="same", output_dir="output/run", logging={"tensorboard": False}
)


def learnt(folder):
    """The finished LoRA without its header, which tells where the data lay."""
    data = weights(folder)
    return data[8 + int.from_bytes(data[:8], "little") :]


def stopped(desk, at_step, **options):
    """A run that was asked to stop at its second step; what is typed to go on with it."""
    straight = desk.train(
        desk.config("straight.yaml", **OPTIONS | options | {"output_dir": "output/straight"})
    )
    assert straight.code == 0, straight.text
    config = desk.config(**OPTIONS | options)
    at_step({1: (desk.root / "output/run/control/stop").touch})
    done = desk.train(config)
    assert done.code == 0, done.text
    assert "Saved at step 2 of 4" in done.out
    at_step({})
    return config


def refused(desk, config, *names):
    done = desk.train(config)
    assert done.code == 2, done.text
    assert "LS5003" in done.err
    assert "Traceback" not in done.text
    for name in names:
        assert name in done.err, (name, done.err)
    assert "undo these changes to go on with it, choose another output_dir, or add --overwrite" in done.err


@pytest.mark.long
def test_pictures(make_desk, at_step):
    desk = make_desk()
    pics = desk.root / "pics"
    config = stopped(desk, at_step)
    table, picture = pics / "metadata.csv", pics / "img03.png"
    rows, pixels = table.read_text(encoding="utf-8"), picture.read_bytes()
    lines = [line.split(",", 1) for line in rows.splitlines()[1:]]

    with Image.open(picture) as image:
        image.convert("RGB").point(lambda value: 255 - value).save(picture)
    refused(desk, config, "pictures with other content: 1 (img03.png)")
    picture.write_bytes(pixels)

    (pics / "img99.png").write_bytes((pics / "img05.png").read_bytes())
    write_csv(table, [(name, text.strip('"')) for name, text in lines] + [("img99.png", "one more")])
    refused(desk, config, "pictures added: 1 (img99.png)")
    (pics / "img99.png").unlink()

    write_csv(
        table, [(name, text.strip('"')) for name, text in lines if name not in ("img05.png", "img07.png")]
    )
    for name in ("img05.png", "img07.png"):
        (pics / name).rename(desk.root / name)
    refused(desk, config, "pictures removed: 2 (img05.png, img07.png)")
    for name in ("img05.png", "img07.png"):
        (desk.root / name).rename(pics / name)

    table.write_text(rows.replace("number 3", "number three"), encoding="utf-8")
    refused(desk, config, "other captions: 1 (img03.png)")
    table.write_text(rows, encoding="utf-8")

    pics.rename(desk.root / "moved")
    moved = desk.config(**OPTIONS, train_data_dir="./moved")
    again = desk.train(moved)
    assert again.code == 0, again.text
    assert "changed since, without effect on what is learnt: train_data_dir: ./pics → ./moved" in again.out
    assert learnt(desk.root / "output/run") == learnt(desk.root / "output/straight")


@pytest.mark.long
def test_texts(make_text_desk, at_step):
    desk = make_text_desk()
    table = desk.root / "rows.jsonl"
    config = stopped(desk, at_step)
    whole = table.read_text(encoding="utf-8")
    lines = whole.splitlines()

    table.write_text("\n".join([*lines[:4], lines[4].replace("two days", "three days"), *lines[5:]]) + "\n")
    refused(
        desk,
        config,
        "data files with other content: 1 (rows.jsonl)",
        "rows with other tokens: 1 (rows.jsonl:5)",
    )

    more = lines[0].replace("customer 0", "customer 77")
    table.write_text("\n".join([*lines[:7], more, *lines[7:]]) + "\n", encoding="utf-8")
    refused(desk, config, "rows added: 1 (rows.jsonl:8)", "rows trained on: ")

    table.write_text("\n".join([*lines[:2], *lines[3:]]) + "\n", encoding="utf-8")
    refused(desk, config, "rows removed: 1 (rows.jsonl:3)")

    table.write_text("\n".join(reversed(lines)) + "\n", encoding="utf-8")
    refused(desk, config, "the rows are as many as before, but their tokens or their order differ")

    table.unlink()
    same = "\n\n".join(json.dumps(json.loads(line), indent=None, ensure_ascii=True) for line in lines)
    (desk.root / "renamed.jsonl").write_text(same + "\n", encoding="utf-8")
    again = desk.train(desk.config(**OPTIONS, metadata_path="./renamed.jsonl"))
    assert again.code == 0, again.text
    assert "going on from step-000002" in again.out
    assert "metadata_path: ./rows.jsonl → ./renamed.jsonl" in again.out
    assert learnt(desk.root / "output/run") == learnt(desk.root / "output/straight")


def test_a_template_that_changes_the_rows_is_named_with_them(make_text_desk, at_step):
    desk = make_text_desk()
    stopped(desk, at_step)
    config = desk.config(**OPTIONS, chat_template="chatml")
    done = desk.train(config)
    assert done.code == 2, done.text
    assert "rows with other tokens" in done.err
    assert "rows.jsonl:1, rows.jsonl:2" in done.err
    assert "chat_template: (not set) → chatml" in done.err
