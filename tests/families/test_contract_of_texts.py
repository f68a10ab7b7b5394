"""What every family of language models keeps to, whichever there are: a new file in ``families/`` is tested
as soon as it lies there, on the small base that ``tests/bases/<family>.py`` writes."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lora_scripts.adapters.attach import attach, set_training
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.core.problems import Location
from lora_scripts.data.chat import TextExample, Turn
from lora_scripts.export.peft_folder import peft_tensors, write_peft
from lora_scripts.export.text_proof import encode, next_token_logits, read_back_peft, worn
from lora_scripts.families._base import Draw
from lora_scripts.families._encode import Encoder
from lora_scripts.families._source import family_named, family_names, find, resolve
from lora_scripts.training.text_objectives import Answers
from tests.contract.conftest import TextDesk, write_rows
from tests.export.text_loras import FACTS, stir

TEXTS = [name for name in family_names() if family_named(name).sheet.task == "text-generation"]
TALKS = (
    ("Where is my parcel?", "It left the warehouse this morning."),
    ("保修期是多久？", "保修期为三年，请保留您的发票。"),
)


@pytest.fixture(scope="module", params=TEXTS)
def base(request, tmp_path_factory) -> Path:
    made: Path = importlib.import_module(f"tests.bases.{request.param}").folder(
        tmp_path_factory.mktemp("base") / request.param
    )
    return made


def load(base: Path, **options: Any) -> Any:
    source = resolve(str(base))
    return find("auto", source).load(source, **options)


def rows(model: Any) -> list[Any]:
    """The two talks as the family reads them."""
    reader = Encoder(model.tokenizer, max_length=96)
    found = []
    for number, (question, answer) in enumerate(TALKS, 1):
        turns = (Turn("user", question), Turn("assistant", answer))
        found += reader.encode(TextExample(turns=turns, where=Location("rows.jsonl", number)))
    return found


def items(model: Any) -> list[dict[str, torch.Tensor]]:
    return [
        {"ids": torch.from_numpy(row.ids).long(), "targets": torch.from_numpy(row.targets)}
        for row in rows(model)
    ]


def batch_of(model: Any, *numbers: int) -> Any:
    chosen = [items(model)[number] for number in numbers]
    return model.family.collate(model, chosen, [Draw(0)] * len(chosen))


def test_rows_read_the_same_again_and_answers_carry_loss(base):
    model = load(base)
    once, again = rows(model), rows(model)
    assert len(once) == len(TALKS)
    for one, two, (question, answer) in zip(once, again, TALKS, strict=True):
        assert np.array_equal(one.ids, two.ids)
        assert np.array_equal(one.targets, two.targets)
        learnt = model.tokenizer.decode(one.ids[one.targets])
        assert answer in learnt
        assert question not in learnt
        assert question in model.tokenizer.decode(one.ids)


@pytest.mark.parametrize("packing", [True, False])
def test_the_loss_is_a_sum_over_the_answers_tokens(base, packing):
    model = load(base, packing=packing)
    assert model.packing is packing
    objective = Answers(model.family, model)
    with torch.no_grad():
        both, one, two = (
            (float(objective.sums(batch)["answers"]), objective.weights(batch)["answers"])
            for batch in (batch_of(model, 0, 1), batch_of(model, 0), batch_of(model, 1))
        )
    assert both[1] == one[1] + two[1] == sum(int(item["targets"].sum()) for item in items(model))
    assert both[0] == pytest.approx(one[0] + two[0], rel=1e-5)
    assert both[0] > 0


@pytest.mark.parametrize("lean", [True, False])
def test_gradients_reach_the_adapter_and_nothing_else(base, lean):
    model = load(base)
    adapter = attach(model, AdapterSpec(4, 2.0), seed=1, lean=lean)
    stir(adapter)
    Answers(model.family, model).sums(batch_of(model, 0, 1))["answers"].backward()
    reached = {
        name: p.grad is not None and bool(p.grad.abs().sum() > 0) for name, p in adapter.parameters.items()
    }
    assert all(reached.values())
    own = {id(parameter) for parameter in adapter.parameters.values()}
    others = [p for module in model.modules.values() for p in module.parameters() if id(p) not in own]
    assert others
    assert not any(p.requires_grad or p.grad is not None for p in others)


def test_checkpointing_changes_no_gradient(base):
    seen = []
    for on in (False, True):
        model = load(base)
        adapter = attach(model, AdapterSpec(4, 2.0), seed=1, lean=True)
        stir(adapter)
        model.family.set_gradient_checkpointing(model, on)
        set_training(model, adapter, True)
        Answers(model.family, model).sums(batch_of(model, 0, 1))["answers"].backward()
        seen.append({name: p.grad for name, p in adapter.parameters.items()})
    for name, grad in seen[0].items():
        torch.testing.assert_close(grad, seen[1][name], rtol=1e-5, atol=1e-7)


def test_what_the_file_holds_is_what_was_trained(base, tmp_path):
    model = load(base)
    adapter = attach(model, AdapterSpec(4, 2.0), seed=1)
    stir(adapter)
    for name in ("one", "two"):
        write_peft(tmp_path / name, model, adapter, FACTS)
    files = [tmp_path / name / "adapter_model.safetensors" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes(), "equal adapters give equal bytes"
    held, trained = load_file(files[0]), peft_tensors(adapter)
    assert held.keys() == trained.keys()
    assert all(torch.equal(held[name], trained[name].to(held[name])) for name in held)
    proof = read_back_peft(tmp_path / "one", model, adapter)
    assert proof.layers == len(adapter.layers)
    assert proof.difference.relative < 1e-3

    ids = encode(model.tokenizer)
    wanted, fresh = next_token_logits(model.predictor, ids), load(base).predictor
    bare = next_token_logits(fresh, ids)
    with worn(fresh, [(tmp_path / "one", 1.0)]) as wearing:
        got = next_token_logits(wearing, ids)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(bare, wanted, atol=1e-3), "the adapter does nothing"


def test_an_answer_is_learnt_by_heart_from_a_fresh_adapter(base):
    model = load(base)
    batch = batch_of(model, 0)
    adapter = attach(model, AdapterSpec(8, 8.0), seed=1, lean=True)
    objective = Answers(model.family, model)
    optimizer = torch.optim.Adam(adapter.parameters.values(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = objective.sums(batch)["answers"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "precision"), [("none", "no"), ("4bit", "bf16"), ("8bit", "no")])
def test_a_run_that_was_cut_ends_with_the_same_bytes(base, bits, precision, tmp_path):
    write_rows(tmp_path / "rows.jsonl")
    desk = TextDesk(tmp_path, base)
    options = {
        "max_steps": 4, "save_steps": 2, "batch_size": 2, "lora_dropout": 0.1, "output_name": "same",
        "quantization": bits, "mixed_precision": precision,
        "logging": {"tensorboard": False}, "validation": {"split": 0},
    }  # fmt: skip
    done = desk.train(desk.config(output_dir="output/straight", **options))
    assert done.code == 0, done.text
    straight, cut = (tmp_path / "output" / name for name in ("straight", "cut"))
    shutil.copytree(straight, cut)
    (cut / "result.json").unlink()
    (cut / "adapter_model.safetensors").unlink()
    shutil.rmtree(cut / "checkpoints" / "step-000004")
    again = desk.train(desk.config("cut.yaml", output_dir="output/cut", **options))
    assert again.code == 0, again.text
    assert "going on from step-" in again.out
    files = [folder / "adapter_model.safetensors" for folder in (straight, cut)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert json.loads((cut / "result.json").read_text(encoding="utf-8"))["readback"]["layers"]
