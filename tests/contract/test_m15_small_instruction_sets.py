"""M15: small instruction sets, in whatever form they come, give a usable text LoRA."""

import csv
import json
import math

import pytest

PAIRS = [(f"How long is guarantee {n}?", f"Guarantee {n} lasts three years.") for n in range(12)]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_chinese_csv(path):
    with open(path, "w", newline="", encoding="gb18030") as handle:
        writer = csv.writer(handle)
        writer.writerow(("问题", "回答"))
        writer.writerows([(f"保修期是多久？{n}", f"保修期为三年。{n}") for n in range(12)])


FORMS = {
    "sharegpt.jsonl": lambda path: jsonl(
        path,
        [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in PAIRS],
    ),
    "alpaca.json": lambda path: path.write_text(
        json.dumps([{"instruction": q, "input": "", "output": a} for q, a in PAIRS])
    ),
    "chinese.csv": write_chinese_csv,
    "plain.jsonl": lambda path: jsonl(path, [{"text": f"{q} {a}"} for q, a in PAIRS]),
    "pairs.jsonl": lambda path: jsonl(
        path, [{"prompt": q, "chosen": a, "rejected": "No idea."} for q, a in PAIRS]
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_trains_as_it_lies(make_text_desk, name):
    desk = make_text_desk()
    FORMS[name](desk.root / name)
    done = desk.train(desk.config(metadata_path=f"./{name}", max_steps=3))
    assert done.code == 0, done.text
    assert (desk.root / "output/voice/adapter_model.safetensors").exists()


@pytest.mark.parametrize("objective", ["dpo", "orpo"])
def test_pairs_are_told_apart_better_after_training(make_text_desk, objective):
    desk = make_text_desk()
    FORMS["pairs.jsonl"](desk.root / "pairs.jsonl")
    config = desk.config(
        metadata_path="./pairs.jsonl", objective=objective, max_steps=12, validation={"split": 0.25}
    )
    done = desk.train(config)
    assert done.code == 0, done.text
    result = desk.result()
    assert result["validation_loss_after"] < result["validation_loss_before"]
    assert result["preferred_after"] >= 0.5


def test_a_second_run_reads_no_row_twice(make_text_desk):
    desk = make_text_desk()
    assert desk.train(desk.config(max_steps=2)).code == 0
    tables = {path: path.stat().st_mtime_ns for path in (desk.root / "cache").rglob("*.arrow")}
    assert tables
    assert desk.train(desk.config(max_steps=2), "--output-dir", "output/again").code == 0
    assert {path: path.stat().st_mtime_ns for path in (desk.root / "cache").rglob("*.arrow")} == tables


def test_pairs_are_held_against_the_base_that_is_trained(make_text_desk, tmp_path):
    """Two bases with one cache: before the first step each thinks of the pairs what it thinks itself."""
    from tests.texts.small import write_model

    desk = make_text_desk()
    FORMS["pairs.jsonl"](desk.root / "pairs.jsonl")
    for seed in (0, 1):
        desk.base = write_model(tmp_path / str(seed), "llama", seed=seed)
        config = desk.config(
            metadata_path="./pairs.jsonl",
            output_dir=f"output/{seed}",
            max_steps=1,
            validation={"split": 0.25},
        )
        done = desk.train(config)
        assert done.code == 0, done.text
        assert desk.result(f"output/{seed}")["validation_loss_before"] == pytest.approx(math.log(2), rel=1e-5)
