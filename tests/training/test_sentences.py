"""Previews of a text run: what it answers on the way, on one page, without a trace in what is learnt."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lora_scripts.adapters.attach import attach, set_training
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.config.schema import RunConfig
from lora_scripts.core.control import Control
from lora_scripts.core.events import Previewed
from lora_scripts.core.paths import RunFolder
from lora_scripts.data.plan import Plan
from lora_scripts.toolbox.talk import generate_texts
from lora_scripts.training import optimizers
from lora_scripts.training.averages import Lender
from lora_scripts.training.batches import Batches
from lora_scripts.training.callbacks.sentences import Sentences, rows_may_think
from lora_scripts.training.loop import Job, fit
from lora_scripts.training.precision import Precision
from lora_scripts.training.schedules import Schedule
from lora_scripts.training.state import TrainingState
from lora_scripts.training.text_objectives import Answers
from tests.texts import loras, small

PROMPTS = ["Where is my parcel?", "保修期是多久？"]
STEPS = 6


class Rows:
    """Each row asks about a customer and answers; the answer carries loss."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def key(self, index):
        return str(index)

    name = key

    def item(self, index, draw=None):
        asked = self.tokenizer(f"Who is customer {index}?")["input_ids"]
        answer = self.tokenizer(f"Customer {index} waits.<|im_end|>")["input_ids"]
        targets = [False] * len(asked) + [True] * len(answer)
        return {"ids": torch.tensor(asked + answer), "targets": torch.tensor(targets)}


def dataset_of(tokenizer, prompts):
    """Rows whose prompts are these texts."""
    rows = []
    for prompt in prompts:
        asked, answer = (np.array(tokenizer(text)["input_ids"], np.int32) for text in (prompt, "Yes."))
        targets = np.arange(len(asked) + len(answer)) >= len(asked)
        rows.append(SimpleNamespace(ids=np.concatenate([asked, answer]), targets=targets))
    return SimpleNamespace(table=SimpleNamespace(row=rows.__getitem__), train=np.arange(len(rows)))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small.write_model(tmp_path_factory.mktemp("base") / "llama", "llama")


@pytest.fixture
def open_session(base, tmp_path):
    """A session as far as previews and the loop look at it; dropout is on, checkpointing too."""

    def opened(mode="no", **preview):
        config = RunConfig(
            task_type="text-generation",
            train_data_dir=".",
            base_model=str(base),
            output_dir=str(tmp_path / "run"),
            system="Be kind.",
            save_steps=2,
            preview={"prompts": PROMPTS, "max_new_tokens": 6, **preview},
        )
        model = loras.load(base, packing=True)
        adapter = attach(model, AdapterSpec(4, 4.0, dropout=0.3), seed=1, lean=True)
        model.family.set_gradient_checkpointing(model, True)
        set_training(model, adapter, True)
        job = Job(
            objective=Answers(model.family, model),
            batches=Batches(model, Rows(model.tokenizer), Plan([0] * 12, 4), 5),
            parameters=adapter.parameters,
            optimizer=optimizers.build("adamw", {"model": (dict(adapter.parameters), 0.05)}, 0.01),
            precision=Precision(mode, torch.device("cpu")),
            schedule=Schedule("constant", STEPS),
            total_steps=STEPS,
            max_grad_norm=1.0,
            seed=7,
        )
        dataset = dataset_of(model.tokenizer, ["Hello"])
        return SimpleNamespace(
            config=config, model=model, adapter=adapter, job=job, dataset=dataset, lend=Lender({}, None)
        )

    return opened


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run", "voice")


def train(session, folder=None, requests=()):
    """Trains; with a folder, previews are made. The events of previews with their steps."""
    state, control, told, listeners = TrainingState(), Control(), [], []

    def emit(event):
        if isinstance(event, Previewed):
            told.append((state.step, event))
        for listener in listeners:
            listener(event, state.step)
        if state.step in requests:
            control.request("preview")

    if folder is not None:
        listeners.append(Sentences(session, folder, control, emit))
        listeners[0].before(0)
    fit(session.job, state, emit, control)
    return told


def bytes_of(session):
    return {
        name: parameter.detach().numpy().tobytes() for name, parameter in session.adapter.parameters.items()
    }


@pytest.mark.parametrize("mode", ["no", pytest.param("bf16", marks=pytest.mark.long)])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_learnt_is_the_same_with_and_without_previews(open_session, folder, mode, temperature):
    silent, asked = open_session(mode), open_session(mode, every_steps=1, temperature=temperature)
    train(silent)
    told = train(asked, folder)
    assert len(told) == STEPS + 1
    assert bytes_of(asked) == bytes_of(silent)
    assert asked.model.predictor.training


def test_previews_come_before_at_the_cadence_on_request_and_at_the_end(open_session, folder):
    told = train(open_session(every_steps=4), folder, requests=(1,))
    assert [step for step, _ in told] == [0, 2, 4, 6]
    assert train(open_session(), folder)[1][0] == 2


def test_a_preview_is_what_the_model_answers_then(open_session, folder):
    session = open_session()
    told = train(session, folder)
    set_training(session.model, session.adapter, False)
    now = generate_texts(session.model, PROMPTS, system="Be kind.", max_new_tokens=6)
    assert told[-1][1].texts == now
    assert told[0][1].texts != now
    files = told[-1][1].files
    assert files == ["previews/step-000006.json", "previews/page.html"]
    kept = json.loads((folder.root / files[0]).read_text("utf-8"))
    assert (kept["step"], kept["prompts"], kept["answers"], kept["system"]) == (6, PROMPTS, now, "Be kind.")


def test_the_page_shows_every_step_and_hostile_names_as_text(open_session, tmp_path):
    from tests.toolbox.test_text_page import NASTY, read

    session = open_session(prompts=NASTY[:2], every_steps=3)
    session.config = session.config.model_copy(update={"output_name": NASTY[1]})
    train(session, RunFolder(tmp_path / "run", "voice"))
    reader = read((tmp_path / "run/previews/page.html").read_text("utf-8"))
    assert reader.texts[0] == f"{NASTY[1]}: what the model answers"
    assert reader.texts[3:7] == ["before", "step 3", "step 6", NASTY[0]]
    assert not {tag for tag, _ in reader.tags} & {"script", "img"}


def test_a_resumed_run_shows_no_answers_of_steps_it_has_not_reached(open_session, folder):
    from tests.toolbox.test_text_page import read

    train(open_session(), folder)
    session = open_session(prompts=["New?", *PROMPTS])
    callback = Sentences(session, folder, Control(), lambda event: None)
    callback.ask(3)
    reader = read((folder.previews / "page.html").read_text("utf-8"))
    assert reader.texts[3:6] == ["before", "step 2", "step 3"]
    rows = reader.texts[6:]
    assert rows[0::4] == ["New?", *PROMPTS]
    assert rows[1:3] == ["", ""]
    assert all(rows[5:])


def test_prompts_are_asked_as_the_rows_ask():
    tokenizer, off = small.chat_tokenizer(), "Hi<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert rows_may_think(dataset_of(tokenizer, ["Hi<|im_start|>assistant\n"]), tokenizer)
    assert not rows_may_think(dataset_of(tokenizer, [off]), tokenizer)
    assert rows_may_think(dataset_of(tokenizer, [off, "Hi", "Hi"]), tokenizer)
