"""Row 31: whatever stands in a configuration, the answer is file, line and remedy, and exit code 2.

Mutants by the hundred: tests/fuzz/test_short.py; by the ten thousand: ``make fuzz``. Here are the traps that
YAML itself sets. Spelling, types and ranges: tests/config/test_load.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_scripts.cli import main
from lora_scripts.config.document import MAX_VALUES
from lora_scripts.config.load import load_config
from lora_scripts.core.problems import Problem, ProblemsError

SOUND = "train_data_dir: a\nbase_model: builtin:demo\noutput_dir: out\n"
LAUGHS = "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 10))

CHAIN = "x0: &x0 [a]\n" + "".join(f"x{n}: &x{n} [*x{n - 1}]\n" for n in range(1, 2000))


def problems(tmp_path: Path, text: str | bytes, **options) -> list[Problem]:
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ProblemsError) as caught:
        load_config(path, **options)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        pytest.param("x0: &x0 [a]\n" + LAUGHS, "LS1003", None, id="billion laughs"),
        pytest.param("system: &a [*a]\n", "LS1016", 4, id="an alias inside of itself"),
        pytest.param(
            2 * ("x0: &x0 [a]\n" + LAUGHS),
            "LS1003",
            None,
            id="billion laughs, each line twice",
            marks=pytest.mark.long,
        ),
        pytest.param(f"x0: &x0 [a]\n{LAUGHS}? *x9\n: 1\n", "LS1003", 13, id="billion laughs as a key"),
        pytest.param(f"x0: &x0 [a]\n{LAUGHS}x: !!pairs [a: *x9]\n", "LS1003", None, id="as pairs"),
        pytest.param(
            f"x0: &x0 [a]\n{LAUGHS}x: !!omap [a: *x9]\n",
            "LS1003",
            None,
            id="as an ordered map",
            marks=pytest.mark.long,
        ),
        pytest.param("? [a, b]\n: c\n", "LS1003", 4, id="a list as a key"),
        pytest.param("columns: &a {b: *a}\n", "LS1016", 4, id="an alias inside of its mapping"),
        pytest.param(CHAIN, "LS1003", None, id="two thousand aliases in a row", marks=pytest.mark.long),
        pytest.param('trigger_word: "\\ud800"\n', "LS1003", 4, id="half a character"),
        pytest.param("x: *nothing\n", "LS1003", 4, id="an alias of nothing"),
        pytest.param("x: " + "[" * 60_000 + "\n", "LS1003", 4, id="opened sixty thousand times"),
        pytest.param("x: " + "[" * 3000 + "]" * 3000 + "\n", "LS1003", 4, id="three thousand deep"),
        pytest.param("seed: 2026-13-45\n", "LS1003", 4, id="a day that is none"),
        pytest.param("trigger_word: \x07\n", "LS1003", 4, id="a bell"),
        pytest.param(
            "lora_rank: 8\nlora_rank: 9\nseed: 2026-13-45\n", "LS1003", 6, id="twice, and then no day"
        ),
        pytest.param("1: a\n'1': b\n", "LS1005", 5, id="1 and '1'"),
        pytest.param("seed: 0x" + "f" * 5000 + "\n", "LS1016", 4, id="a number of six thousand digits"),
        pytest.param("learning_rate: 1" + "0" * 400 + "\n", "LS1016", 4, id="more than a float holds"),
        pytest.param(
            "validation: &v\n  splt: 0.1\npreview:\n  <<: *v\n", "LS1006", 5, id="a typo that is merged in"
        ),
        pytest.param("k" * 1000 + ": 1\n", "LS1007", 4, id="a very long key"),
        pytest.param('"\\x1b[2J": 1\n', "LS1007", 4, id="a key that clears the screen"),
        pytest.param("---\nepochs: 3\n", "LS1003", None, id="two documents"),
        pytest.param("%YAML 3.7\n---\nx: 1\n", "LS1003", None, id="another YAML"),
    ],
)
def test_31_traps_of_yaml_are_named_by_their_line(tmp_path, text, code, line) -> None:
    found = problems(tmp_path, SOUND + text)
    places = [problem.where.line for problem in found if problem.code == code and problem.where]
    assert places, [problem.code for problem in found]
    assert None not in places
    assert line is None or line in places


def test_31_plain_words_are_what_they_look_like(tmp_path) -> None:
    """YAML 1.1 made numbers of clock times, octals of 0755, and booleans of no and on."""
    path = tmp_path / "c.yaml"
    text = "mixed_precision: no\ntrigger_word: on\noutput_name: null\nseed: 0755\nlearning_rate: 1e-4\n"
    path.write_text(SOUND + text, encoding="utf-8")
    config = load_config(path)
    assert (config.mixed_precision, config.trigger_word, config.seed) == ("no", "on", 755)
    assert config.learning_rate == 1e-4
    path.write_text(SOUND + "system: 12:30\ntask_type: text-generation\n", encoding="utf-8")
    assert load_config(path).system == "12:30"


def test_31_a_merge_key_s_values_count_and_have_a_place(tmp_path) -> None:
    path = tmp_path / "c.yaml"
    text = "validation: &v\n  every_steps: 7\npreview: {<<: *v, prompts: [a]}\n"
    path.write_text(SOUND + text, encoding="utf-8")
    config = load_config(path)
    assert (config.validation.every_steps, config.preview.every_steps) == (7, 7)
    (problem,) = problems(
        tmp_path, SOUND + text.replace("7", "x", 1).replace("every_steps: x", "every_steps: 0", 1) + ""
    )[:1]
    assert (problem.code, problem.where.line) == ("LS1016", 5)


def test_31_as_many_values_as_anyone_writes_are_taken(tmp_path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(SOUND + "preview:\n  prompts: [" + "a, " * 5000 + "a]\n", encoding="utf-8")
    assert len(load_config(path).preview.prompts) == 5001
    assert MAX_VALUES > 50_000


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [touch canary]", "!!python/name:os.system", "!x y"]
)
def test_31_tags_run_nothing(tmp_path, monkeypatch, tag) -> None:
    monkeypatch.chdir(tmp_path)
    problems(tmp_path, f"{SOUND}lora_rank: {tag}\n")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "text",
    [
        "learning_rate=&a [*a]",
        "x=[[[[",
        "seed=2026-13-45",
        "lora_rank={<<: {a: 1}}",
        "a.b.c=1",
        "system=\ud800",
    ],
)
def test_31_overrides_are_named_as_they_were_typed(tmp_path, text) -> None:
    found = problems(tmp_path, SOUND, overrides=[text])
    assert {str(problem.where) for problem in found} == {f"--set {text}"}


@pytest.mark.parametrize("folder", ["it's", "a: b", "{x}", "# c", "- y", "  z", "风格 🙂", "2026-11-30"])
def test_31_an_output_folder_on_the_command_line_is_taken_letter_by_letter(tmp_path, folder) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(SOUND, encoding="utf-8")
    assert load_config(path, output_dir=folder).output_dir == folder


@pytest.mark.parametrize("folder", ["a\0b", "a\nb", "\udcff"])
def test_31_an_output_folder_that_no_configuration_can_repeat_is_refused(tmp_path, folder) -> None:
    (problem,) = problems(tmp_path, SOUND, output_dir=folder)
    assert (problem.code, str(problem.where)) == ("LS1015", "--output-dir")


def test_31_a_warning_of_the_parser_reaches_nobody(tmp_path, recwarn) -> None:
    problems(tmp_path, f"{SOUND}x: &a 1\ny: &a 2\nz: *a\n")
    assert not recwarn.list


def test_31_a_name_that_no_file_has_and_a_device_that_never_ends(tmp_path) -> None:
    for path, code in (("a\0b", "LS1001"), ("/dev/zero", "LS1012"), (str(tmp_path), "LS1001")):
        with pytest.raises(ProblemsError) as caught:
            load_config(Path(path))
        assert [problem.code for problem in caught.value.problems] == [code]


def test_31_the_exit_code_is_two_and_nothing_of_the_file_commands_the_terminal(tmp_path, capsys) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f'{SOUND}"\\x1b[2J\\x07": 1\nlora_rnk: 8\n', encoding="utf-8")
    assert main.run(["check", "--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert f"{path}:5:1 LS1006 unknown key 'lora_rnk': did you mean 'lora_rank'?" in said
    assert not {"\x1b", "\x07"} & set(said)
