"""The event log: typed lines, torn ends cut, repeated steps dropped for readers."""

import json

from lora_scripts.core.events import EventLog, RunStarted, StepDone, json_schema, read_events

STEP = dict(epoch=0.5, learning_rates={"predictor": 1e-4}, grad_norm=1.0, skipped=False, seconds=0.1)


def step(loss: float) -> StepDone:
    return StepDone(loss=loss, examples=4, memory_gib=1.0, **STEP)


def started(at: int) -> RunStarted:
    return RunStarted(
        name="n", family="f", device="cpu", precision="no", total_steps=9, start_step=at,
        task="image-generation", examples=1, held_out=0, adapter_modules=1, adapter_parameters=1,
    )  # fmt: skip


def test_a_torn_line_is_cut_and_a_new_attempt_goes_on(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.write(step(1.0), 1)
    log.close()
    with open(path, "a") as handle:
        handle.write('{"v": 1, "seq": 1, "ty')
    again = EventLog(path)
    again.write(step(0.5), 1)
    again.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["seq"] for line in lines] == [0, 1]
    assert [line["attempt"] for line in lines] == [1, 2]
    assert lines[0]["run"] == lines[1]["run"]


def test_readers_drop_the_steps_that_a_later_attempt_repeats(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.write(started(0), 0)
    for number in range(1, 6):
        log.write(step(number), number)
    log.close()
    log = EventLog(path)
    log.write(started(3), 3)
    log.write(step(40.0), 4)
    log.close()
    steps = [(line["step"], line["data"]["loss"]) for line in read_events(path) if line["type"] == "step"]
    assert steps == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_a_loss_that_is_not_finite_is_written_as_null(tmp_path):
    log = EventLog(tmp_path / "e.jsonl")
    log.write(step(float("nan")), 1)
    log.close()
    assert json.loads((tmp_path / "e.jsonl").read_text())["data"]["loss"] is None


def test_the_schema_names_every_event():
    names = {kind["properties"]["type"]["const"] for kind in json_schema()["oneOf"]}
    assert {"step", "validation", "saved", "run_ended"} <= names
