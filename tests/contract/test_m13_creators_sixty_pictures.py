"""M13: 60 pictures and a few edited lines are enough: the default config, only five keys changed."""

from tests.contract.conftest import ROOT, draw_pictures, write_csv


def test_m13_the_default_config_with_five_edited_lines_trains(make_desk):
    desk = make_desk()
    write_csv(
        desk.root / "sixty" / "metadata.csv", draw_pictures(desk.root / "sixty", 60, ((96, 64), (64, 64)))
    )
    text = (ROOT / "configs" / "lora_default.yaml").read_text(encoding="utf-8")
    edits = {
        "train_data_dir": '"./sixty"', "lora_rank": "8", "batch_size": "4", "learning_rate": "2e-4",
        "output_dir": '"./output/sixty"',
    }  # fmt: skip
    lines = []
    for line in text.splitlines():
        key = line.split(":")[0]
        lines.append(f"{key}: {edits.pop(key)}" if key in edits else line)
    assert not edits, "every key that a creator edits stands in the default"
    (desk.root / "mine.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = desk.train(
        "mine.yaml", "--set", f"base_model={desk.base}", "--set", "max_steps=4", "--set", "cache_dir=./cache"
    )
    assert done.code == 0, done.text
    assert (desk.root / "output/sixty/sixty.safetensors").exists()
