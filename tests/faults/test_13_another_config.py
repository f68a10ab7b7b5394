"""Fault 13, a checkpoint of another config: refused with every field that differs and both its values; what
does not shape the result passes and is said."""

import json
import shutil
from typing import Any, get_args

import pytest

from lora_scripts.config.schema import RunConfig, flatten, foreign_keys, harmless_keys, section_of
from lora_scripts.core.paths import RunFolder
from lora_scripts.training.identity import CUT, PLACES, UNSAID, WINDOW, Identity, Record
from tests.faults.conftest import TASKS, weights, whole_checkpoints

BASE = {"kind": "folder", "bytes": 10, "sha256": "ab" * 32}
DATA = {
    "image-generation": {"sha256": "1", "train": {}, "validation": {}},
    "text-generation": {"kind": "text", "sha256": "1", "train": 4, "validation": 0, "files": {}, "rows": {}},
}
DATA["text-generation"]["rows"] = {"train": "x", "validation": "y"}
GUESSES = (
    True, False, 0, 1, 2, 3, 7, 8, 64, 75, 150, 0.05, 0.25, 0.5, 1.5, 2.0, "other", "./other", "auto", "gray",
    ["x"], ["wandb"], {"x": 1}, {"x": "y"}, [64, 128], [{"path": "./other"}],
)  # fmt: skip
"""Values of which some fit any field."""
ENOUGH = 2


def fields(model: Any = RunConfig, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> annotation of every key that ``flatten`` gives."""
    found = {}
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is not None and name != "datasets":
            found |= fields(section, f"{prefix}{name}.")
        else:
            found[prefix + name] = field.annotation
    return found


def literals(annotation: Any) -> list[Any]:
    inner = get_args(annotation)
    return [value for part in inner for value in ([part] if not get_args(part) else literals(part))]


def config(task: str, **changes: Any) -> RunConfig:
    fixed = {"task_type": task, "train_data_dir": "./pics", "base_model": "./base", "output_dir": "./out"}
    return RunConfig.model_validate(fixed | changes)


def others(task: str, key: str, annotation: Any) -> list[RunConfig]:
    """Some valid configs that differ from the plain one in ``key`` alone."""
    section, _, name = key.rpartition(".")
    plain = flatten(config(task).model_dump(mode="json"))
    found: list[RunConfig] = []
    for value in (*literals(annotation), *GUESSES):
        try:
            other = config(task, **({section: {name: value}} if section else {name: value}))
        except (ValueError, TypeError):
            continue
        flat = flatten(other.model_dump(mode="json"))
        if {each for each in flat if flat[each] != plain[each]} == {key}:
            found.append(other)
        if len(found) == ENOUGH:
            break
    return found


@pytest.mark.long
@pytest.mark.parametrize("task", DATA)
def test_every_field_of_the_schema_is_refused_by_name_or_passes_and_is_said(task, tmp_path):
    before = Identity.of(config(task), BASE, DATA[task])
    folder = RunFolder(tmp_path, "x")
    before.write(folder)
    stored = Record.read(folder)
    refused = passed = 0
    for key, annotation in fields().items():
        if key == "task_type":
            continue
        changed = others(task, key, annotation)
        assert changed, f"no other value was found for {key}"
        for other in changed:
            now = Identity.of(other, BASE, DATA[task])
            old, new = (json.dumps(flatten(c.model_dump(mode="json"))[key]) for c in (config(task), other))
            lines, said = now.differences(stored), now.changed(stored)
            if key in foreign_keys(task):
                assert (lines, said, now.digest) == ([], [], before.digest), f"{key} means nothing here"
            elif key in harmless_keys() | PLACES:
                assert lines == [], key
                assert now.digest == before.digest, f"checkpoints of before are its own: {key}"
                assert key in UNSAID or [line.partition(": ")[0] for line in said] == [key]
                passed += 1
            else:
                name = WINDOW if key in CUT else key
                assert now.digest != before.digest, key
                assert [line.partition(": ")[0] for line in lines] == [name]
                if key not in CUT:
                    told = lines[0].partition(": ")[2]
                    shown = [x.strip('"') if x != "null" else "(not set)" for x in (old, new)]
                    assert told.replace('"', "") == " → ".join(shown).replace('"', "")
                refused += 1
    assert refused > 30
    assert passed > 30


NOT_ALONE = {"epochs", "max_steps", "num_processes", "resume"}
"""Harmless to go on with, and no mere watching: how long, on how much, and whether at all."""


@pytest.mark.slow
@pytest.mark.parametrize(("task", "desk"), zip(DATA, TASKS, strict=True))
def test_what_is_harmless_shapes_no_byte(task, desk, request):
    """The mark in the schema is a claim: each such key, changed by itself, leaves the same LoRA."""
    desk = request.getfixturevalue(desk)()
    plain = dict(max_steps=4, save_steps=2, output_name="same")
    own = {"logging": {"tensorboard": False}, "validation": {"split": 0.2}}
    prompts = {"prompts": ["a red house"], "max_new_tokens": 2, "steps": 2, "width": 16, "height": 16}

    def learnt(number, **changes):
        output = desk.root / f"output/{number}"
        sections = {section: values | changes.pop(section, {}) for section, values in own.items()}
        done = desk.train(desk.config(output_dir=str(output), **plain | changes | sections))
        assert done.code == 0, done.text
        return weights(output)

    expected, tried = learnt("plain"), 0
    for key, annotation in fields().items():
        if key not in harmless_keys() - foreign_keys(task) - NOT_ALONE or key.startswith("logging.tracker"):
            continue
        value = flatten(others(task, key, annotation)[0].model_dump(mode="json"))[key]
        section, _, name = key.rpartition(".")
        changes = {section: {name: value}} if section else {key: value}
        if section == "preview":
            kept = {k: v for k, v in prompts.items() if f"preview.{k}" not in foreign_keys(task)}
            sizes = {"width": 24, "height": 24, "steps": 3, "every_steps": 1, "max_new_tokens": 3}
            changes = {"preview": kept | {name: sizes.get(name, value)}}
        if key == "activation_offload":
            changes["gradient_checkpointing"] = True
        assert learnt(key, **changes) == expected, key
        tried += 1
    assert tried >= 10


def test_the_two_tasks_are_told_apart_in_one_line(tmp_path):
    folder = RunFolder(tmp_path, "x")
    Identity.of(config("image-generation"), BASE, DATA["image-generation"]).write(folder)
    now = Identity.of(config("text-generation"), BASE, DATA["text-generation"])
    assert now.differences(Record.read(folder)) == ["task_type: image-generation → text-generation"]


def test_a_difference_without_a_name_is_refused_too(tmp_path):
    folder = RunFolder(tmp_path, "x")
    before = Identity.of(config("text-generation"), BASE, DATA["text-generation"])
    before.write(folder)
    told = json.loads(folder.data.read_text(encoding="utf-8")) | {"sha256": "0" * 64}
    folder.data.write_text(json.dumps(told), encoding="utf-8")
    assert "another version" in before.differences(Record.read(folder))[0]


def as_an_older_version_wrote_it(run, *keys):
    """``run`` as if ``keys`` had come into the schema after it was begun."""
    folder = RunFolder(run, "x")
    told = json.loads(folder.identity.read_text(encoding="utf-8"))
    for key in keys:
        told["config"].pop(key, None)
        told["harmless"].pop(key, None)
    told["digest"] = "0" * 64  # of other keys
    folder.identity.write_text(json.dumps(told), encoding="utf-8")
    for manifest in folder.checkpoints.glob("step-*/manifest.json"):
        older = json.loads(manifest.read_text(encoding="utf-8")) | {"identity": told["digest"]}
        manifest.write_text(json.dumps(older, sort_keys=True, indent=1), encoding="utf-8")


@pytest.mark.long
def test_a_run_of_a_version_with_fewer_keys_goes_on(make_text_desk, at_step):
    """A key that came later means, by default, what was done without it; anything else is refused."""
    desk = make_text_desk()
    run = desk.root / "output/run"
    own = {"output_name": "same", "logging": {"tensorboard": False}}
    plain = dict(output_dir=str(run), max_steps=6, save_steps=2, **own)
    assert desk.train(desk.config(**plain | {"output_dir": str(desk.root / "output/whole")})).code == 0
    at_step({2: (run / "control/stop").touch})
    assert desk.train(desk.config(**plain)).code == 0
    at_step({4: (run / "control/stop").touch})
    as_an_older_version_wrote_it(run, "spike_guard", "ema_decay", "keep_checkpoints")
    refused = desk.train(desk.config(**plain | {"ema_decay": 0.9}))
    assert refused.code == 2, refused.text
    assert "ema_decay: (not set) → 0.9" in refused.err
    assert "spike_guard" not in refused.err
    for step, save_steps in ((3, 3), (5, 2)):  # said and written anew, the run stays its own
        again = desk.train(desk.config(**plain | {"save_steps": save_steps}))
        assert again.code == 0, again.text
        assert f"going on from step-00000{step}" in again.out
        assert "keep_checkpoints" not in again.out
        at_step({})
    assert weights(run) == weights(desk.root / "output/whole")


def test_other_weights_are_told_with_both_contents(tmp_path):
    folder = RunFolder(tmp_path, "x")
    Identity.of(config("image-generation"), BASE, DATA["image-generation"]).write(folder)
    other = BASE | {"sha256": "cd" * 32, "components": {"vae": {"kind": "file", "sha256": "ef" * 32}}}
    moved = config("image-generation", base_model="./moved")
    lines = Identity.of(moved, other, DATA["image-generation"]).differences(Record.read(folder))
    assert lines == [
        "base_model: bytes 10, kind folder, sha256 abababababab → bytes 10, kind folder, sha256 cdcdcdcdcdcd",
        "components.vae: (not set) → kind file, sha256 efefefefefef",
        "base_model: ./base → ./moved",
    ]


def test_a_run_says_what_differs_and_what_may(either_desk, at_step):
    desk = either_desk
    run = desk.root / "output/run"
    plain = dict(output_dir=str(run), max_steps=6, save_steps=2, logging={"tensorboard": False})
    at_step({2: (run / "control/stop").touch})
    stopped = desk.train(desk.config(**plain, lr_scheduler="cosine"))
    assert stopped.code == 0, stopped.text
    at_step({})
    changes = {"lora_rank": 8, "ema_decay": 0.9, "lr_scheduler": "linear"}
    refused = desk.train(desk.config(**plain | changes))
    assert refused.code == 2
    for line in ("lora_rank: 4 → 8", "ema_decay: (not set) → 0.9", "lr_scheduler: cosine → linear"):
        assert line in refused.err
    assert "--overwrite" in refused.err
    moved = run.rename(desk.root / "output/moved")
    may = {"output_dir": str(moved), "max_steps": 4, "save_steps": 4, "lr_scheduler": "cosine"}
    again = desk.train(desk.config(**plain | may))
    assert again.code == 0, again.text
    for line in ("max_steps: 6 → 4", "save_steps: 2 → 4", f"output_dir: {run} → {moved}"):
        assert f"changed since, without effect on what is learnt: {line}" in again.out
    assert "the run is now 4 steps long" in again.out
    told = [json.loads(line) for line in (moved / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    (resumed,) = [event["data"] for event in told if event["type"] == "resumed"]
    assert "max_steps: 6 → 4" in resumed["changed"]


@pytest.mark.long
def test_lost_papers_are_made_good_by_the_checkpoints(make_text_desk, at_step):
    desk = make_text_desk()
    run = desk.root / "output/run"
    plain = dict(output_dir=str(run), max_steps=6, save_steps=2, logging={"tensorboard": False})
    at_step({4: (run / "control/stop").touch})
    assert desk.train(desk.config(**plain)).code == 0
    at_step({})
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(b'{"half'), lambda path: None):
        damage(run / "identity.json")
        damage(run / "data.json")
        refused = desk.train(desk.config(**plain | {"lora_rank": 8}))
        assert refused.code == 2, refused.text
        assert "LS5003" in refused.err
        assert whole_checkpoints(run) == [2, 4, 5]
        shutil.copytree(run, desk.root / "output/copy", dirs_exist_ok=True)
        again = desk.train(desk.config(**plain | {"output_dir": str(desk.root / "output/copy")}))
        assert again.code == 0, again.text
        assert "going on from step-000005" in again.out
        shutil.rmtree(desk.root / "output/copy")
