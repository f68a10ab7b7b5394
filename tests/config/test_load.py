"""YAML to RunConfig: the contract's file works as it stands, and everything wrong is said with its place."""

from pathlib import Path

import pytest

from lora_scripts.config.load import dump_yaml, load_config
from lora_scripts.config.schema import meant
from lora_scripts.core.catalogue import exit_code, render
from lora_scripts.core.problems import ProblemsError

CONTRACT = """\
train_data_dir: "./data/style_train"
metadata_path: "./data/style_train/metadata.csv"
base_model: "./models/Stable-diffusion/v1-5-pruned.safetensors"
lora_rank: 8
batch_size: 4
epochs: 10
learning_rate: 2e-4
output_dir: "./output/my_style_lora"
save_steps: 100
"""
REQUIRED = "train_data_dir: a\nbase_model: builtin:demo\noutput_dir: out/风格 one\n"


def load(tmp_path: Path, text: str, **options):
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, **options)


def problems(tmp_path: Path, text: str, **options):
    with pytest.raises(ProblemsError) as caught:
        load(tmp_path, text, **options)
    return caught.value.problems


def places(found) -> dict[str, tuple]:
    return {p.code: (p.where.line, p.where.column) for p in found if p.where}


def test_the_contract_s_yaml_works_verbatim(tmp_path):
    config = load(tmp_path, CONTRACT)
    assert config.learning_rate == 2e-4
    assert isinstance(config.learning_rate, float)
    assert config.name == "my_style_lora"
    assert config.alpha == config.lora_rank == 8
    assert config.task_type == "image-generation"


@pytest.mark.parametrize("written", ["2e-4", "2E-4", "0.0002", ".0002", "2.0e-04"])
def test_every_spelling_of_a_learning_rate_is_a_number(tmp_path, written):
    assert load(tmp_path, f"{REQUIRED}learning_rate: {written}\n").learning_rate == 2e-4


def test_text_to_image_is_accepted_for_the_image_task(tmp_path):
    assert load(tmp_path, REQUIRED + "task_type: text-to-image\n").task_type == "image-generation"


def test_names_with_spaces_and_chinese_come_through(tmp_path):
    assert load(tmp_path, REQUIRED).name == "风格 one"


def test_all_that_is_wrong_is_said_at_once_with_line_and_column(tmp_path):
    text = "lora_rnk: 8\nbatch_size: many\nlearning_rate: true\nvalidation:\n  splt: 1\noutput_dir: o\n"
    found = problems(tmp_path, text)
    assert {p.code for p in found} == {"LS1006", "LS1016", "LS1008"}
    assert {(p.where.line, p.where.column) for p in found if p.code == "LS1006"} == {(1, 1), (5, 3)}
    assert {p.where.line for p in found if p.code == "LS1016"} == {2, 3}
    assert {p.params["key"] for p in found if p.code == "LS1008"} == {"train_data_dir", "base_model"}
    assert exit_code(found) == 2
    said = render(next(p for p in found if p.params.get("key") == "lora_rnk"), "en")
    assert f"{tmp_path / 'c.yaml'}:1:1 LS1006 unknown key 'lora_rnk': did you mean 'lora_rank'?" in said


def test_problems_come_in_the_order_of_the_file(tmp_path):
    found = problems(tmp_path, REQUIRED + "zzz: 1\nlora_rank: x\nepochs: 0\n")
    assert [p.where.line for p in found] == [4, 5, 6]


def test_a_duplicate_key_is_named_with_its_second_line(tmp_path):
    found = problems(tmp_path, REQUIRED + "lora_rank: 8\nlora_rank: 16\nnonsense: 1\n")
    assert places(found)["LS1005"][0] == 5
    assert "LS1007" in places(found), "other problems are still reported"


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("lora_rank： 8\n", "LS1013", 4),
        ("validation:\n\tsplit: 0.1\n", "LS1014", 5),
        ('trigger_word: "abc\n', "LS1003", None),
        ('cache_dir: "C:\\new"\n', "LS1015", 4),
        ("epochs: 3\nmax_steps: 4\n", "LS1009", 5),
        ("text_encoder_learning_rate: 1e-5\n", "LS1010", 4),
        ("learning_rate: .nan\n", "LS1016", 4),
        ("learning_rate: -1\n", "LS1016", 4),
        ("lora_rank: 8.5\n", "LS1016", 4),
        ("output_name: a/b\n", "LS1016", 4),
    ],
)
def test_habits_that_break_a_config_have_a_sentence_of_their_own(tmp_path, text, code, line):
    found = problems(tmp_path, REQUIRED + text)
    assert [p.code for p in found] == [code]
    if line is not None:
        assert found[0].where.line == line


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"\xd5\xc5\n", "LS1002"), (b"- a\n- b\n", "LS1004"), (b"x" * 1_000_001, "LS1012"), (b"", "LS1008")],
)
def test_files_that_are_no_config(tmp_path, content, code):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ProblemsError) as caught:
        load_config(path)
    assert caught.value.problems[0].code == code


def test_a_missing_file_is_a_problem_not_a_traceback(tmp_path):
    with pytest.raises(ProblemsError) as caught:
        load_config(tmp_path / "none.yaml")
    assert caught.value.problems[0].code == "LS1001"


def test_overrides_are_validated_the_same_way(tmp_path):
    found = problems(tmp_path, REQUIRED, overrides=["lora_rnk=4", "batch_size=x", "nothing"])
    assert sorted(p.code for p in found) == ["LS1006", "LS1011", "LS1016"]
    assert any(str(p.where) == "--set batch_size=x" for p in found)


def test_overrides_reach_sections_and_displace_their_counterpart(tmp_path):
    config = load(
        tmp_path,
        CONTRACT,
        overrides=["max_steps=7", "preview.prompts=[a cat, a dog]", "learning_rate=1e-3"],
        output_dir="it's: here",
    )
    assert (config.max_steps, config.epochs) == (7, None)
    assert config.preview.prompts == ["a cat", "a dog"]
    assert config.learning_rate == 1e-3
    assert config.output_dir == "it's: here"


def test_an_override_that_unsets_a_key_leaves_its_counterpart(tmp_path):
    for order in (["max_steps=7", "epochs=null"], ["epochs=null", "max_steps=7"]):
        config = load(tmp_path, CONTRACT, overrides=order)
        assert (config.max_steps, config.epochs) == (7, None)


def test_a_dumped_config_reads_back_equal(tmp_path):
    config = load(tmp_path, CONTRACT + "preview:\n  prompts: ['赛博朋克: \"neon\"', '- x']\n")
    again = load(tmp_path, dump_yaml(meant(config, {"validation.split"})))
    assert again == config
