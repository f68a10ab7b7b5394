"""What every family of picture models keeps to, whichever there are: a new file in ``families/`` is tested as
soon as it lies there, on the small base that ``tests/bases/<family>.py`` writes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_scripts.adapters.attach import attach, disabled, set_training
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.core.problems import Location
from lora_scripts.data.images import examine
from lora_scripts.data.manifest import Example
from lora_scripts.data.sample import Sample
from lora_scripts.data.samples import samples_of
from lora_scripts.export.earlier import fitted, put_into
from lora_scripts.export.facts import ExportFacts
from lora_scripts.export.kohya import export_lora
from lora_scripts.export.readback import read_back
from lora_scripts.families._base import Draw
from lora_scripts.families._components import hash_of_module
from lora_scripts.families._source import family_named, family_names, find, resolve
from lora_scripts.families._stages import StageOptions
from lora_scripts.training.objective import Denoising
from tests.contract.conftest import Desk, draw_pictures, write_csv
from tests.families.loaded import bare, written

PICTURES = [name for name in family_names() if family_named(name).sheet.task == "image-generation"]


def marked(name: str) -> Any:
    """``sd2`` has the classes of ``sd15``; what it has of its own is in test_sd2.py."""
    return pytest.param(name, marks=pytest.mark.long if name == "sd2" else ())


@pytest.fixture(scope="module", params=map(marked, PICTURES))
def base(request) -> Any:
    return written(request.param)


@pytest.fixture(scope="module")
def single(base) -> Any:
    return written(base.name, "single") or pytest.skip(f"{base.name} has no single file")


def load(base: Path, **options: Any) -> Any:
    source = resolve(str(base))
    return find("auto", source).load(source, **options)


@pytest.fixture(scope="module")
def loaded(base) -> Callable[[str], Any]:
    return cache(lambda bits: load(base, quantization=bits))


@pytest.fixture
def model(loaded) -> Any:
    return bare(loaded("none"))


def samples(model: Any, place: Path) -> list[Sample]:
    step = model.description.size_multiple
    side = 2 * max(8, step)
    rows = draw_pictures(place, 2, ((side, side), (side + 3, side)))
    examples = [
        Example({"image": place / name, "name": name, "caption": caption}, Location(name, 1))
        for name, caption in rows
    ]
    return samples_of(examine(examples)[0], resolution=side, step=step)


def batch_of(model: Any, place: Path, draws: list[Draw], trained: tuple[str, ...] = ()) -> Any:
    stages = model.family.stages(model, StageOptions(trained=trained))
    items = []
    for sample in samples(model, place)[: len(draws)]:
        items.append({name: t for stage in stages for name, t in stage.run([sample])[0].items()})
    return model.family.collate(model, items, draws)


def awake(
    model: Any, *, targets: str = "auto", conv_rank: int | None = None, train_text_encoder: bool = False
) -> Any:
    """An adapter with an effect."""
    spec = AdapterSpec(4, 2.0, targets=targets, conv_rank=conv_rank)
    adapter = attach(model, spec, seed=1, train_text_encoder=train_text_encoder)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if ".lora_B." in name:
                parameter.normal_(0, 0.1, generator=generator)
    return adapter


def encoders(model: Any) -> tuple[str, ...]:
    """The text encoders that can be trained."""
    sheet = model.family.sheet
    return sheet.text_encoders if sheet.supports.get("text_encoder_training") is True else ()


@pytest.mark.parametrize("name", family_names())
def test_every_family_has_a_small_base(name):
    """Without one, nothing below would say anything about it."""
    found = importlib.util.find_spec(f"tests.bases.{name}")
    assert found is not None, (
        f"families/{name}.py has no small base: write tests/bases/{name}.py with folder(path), which makes a "
        "small random base of the family's real classes there"
    )
    assert callable(importlib.import_module(f"tests.bases.{name}").folder)


def test_stages_give_the_same_again_and_tell_contents_apart(model, tmp_path):
    first, second = samples(model, tmp_path / "pics")
    for stage in model.family.stages(model):
        one, two = stage.run([first])[0], stage.run([first])[0]
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert all(torch.isfinite(tensor).all() for tensor in one.values())
        assert stage.key(first) == stage.key(first) != stage.key(second)


def test_the_loss_is_a_sum_that_follows_the_weights(model, tmp_path):
    draws = [Draw(1), Draw(2)]
    objective, batch = Denoising(model.family, model), batch_of(model, tmp_path, draws)

    def loss(**more: Any) -> float:
        with torch.no_grad():
            return float(objective.sums(batch | more)["denoising"])

    whole = loss()
    assert whole > 0
    assert loss(loss_weight=torch.full((2,), 3.0)) == pytest.approx(3 * whole, rel=1e-4)
    alone = loss(loss_weight=torch.tensor([1.0, 0.0])) + loss(loss_weight=torch.tensor([0.0, 1.0]))
    assert alone == pytest.approx(whole, rel=1e-4)


def test_gradients_reach_the_adapter_and_nothing_else(model, tmp_path):
    trained = encoders(model)
    batch = batch_of(model, tmp_path, [Draw(1), Draw(2)], trained)
    adapter = awake(model, train_text_encoder=bool(trained))
    Denoising(model.family, model).sums(batch)["denoising"].backward()
    for component in adapter.matched:
        grads = [p.grad for p in adapter.of(component).values()]
        reached = [g is not None and bool(g.abs().sum() > 0) for g in grads]
        assert all(reached) if component == model.family.sheet.predictor else any(reached), component
    own = {id(parameter) for parameter in adapter.parameters.values()}
    others = [p for module in model.modules.values() for p in module.parameters() if id(p) not in own]
    assert not any(p.requires_grad or p.grad is not None for p in others)


@pytest.mark.long
def test_checkpointing_changes_no_gradient(loaded, tmp_path):
    seen = []
    for on in (False, True):
        model = bare(loaded("none"))
        trained = encoders(model)
        adapter = awake(model, train_text_encoder=bool(trained))
        model.family.set_gradient_checkpointing(model, on)
        set_training(model, adapter, True)
        batch = batch_of(model, tmp_path / str(on), [Draw(1)], trained)
        Denoising(model.family, model).sums(batch)["denoising"].backward()
        seen.append({name: p.grad for name, p in adapter.parameters.items()})
    for name, grad in seen[0].items():
        assert (grad is None) is (seen[1][name] is None), name
        assert grad is None or torch.equal(grad, seen[1][name]), name


def test_what_the_file_holds_is_what_was_trained(model, loaded, tmp_path):
    adapter = awake(model, train_text_encoder=bool(encoders(model)))
    path = tmp_path / "x.safetensors"
    first = export_lora(path, model, adapter, ExportFacts("x", {}), dtype=torch.float32)
    octets = path.read_bytes()
    export_lora(path, model, adapter, ExportFacts("x", {}), dtype=torch.float32)
    assert path.read_bytes() == octets, "equal adapters give equal bytes"
    proof = read_back(path, model, adapter)
    assert sum(proof.layers.values()) == first.layers == sum(map(len, adapter.matched.values()))
    assert proof.relative < 1e-3

    fresh = bare(loaded("none"))
    other = attach(fresh, AdapterSpec(4, 2.0), train_text_encoder=bool(encoders(model)), seed=9)
    earlier = fitted(path, fresh.family, fresh.description.modules, other.matched, other.spec)
    assert put_into(earlier, fresh, other) == first.layers
    batch = batch_of(model, tmp_path / "pics", [Draw(3)], encoders(model))
    with torch.no_grad():
        wanted, got = (each.family.predict(each, batch) for each in (model, fresh))
        with disabled(adapter):
            without = model.family.predict(model, batch)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(without, wanted, atol=1e-4), "the adapter does nothing"


def test_names_go_both_ways(base):
    source = resolve(str(base))
    family = find("auto", source)
    description = family.describe(source)
    back = family.modules_by_name(description.modules)
    adapted = [name for name, part in family.sheet.components.items() if part.kohya]
    places = {(name, module) for name in adapted for module in description.modules[name]}
    assert {back[family.names(*place)] for place in places} == places


@pytest.mark.long
def test_one_picture_is_learnt_by_heart_from_a_fresh_adapter(model, tmp_path):
    batch = batch_of(model, tmp_path, [Draw(1, 300)])
    rank = 8 if model.family.sheet.convolutions else None
    adapter = attach(model, AdapterSpec(8, 8.0, conv_rank=rank), seed=1)
    objective = Denoising(model.family, model)
    optimizer = torch.optim.Adam(adapter.parameters.values(), lr=2e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = objective.sums(batch)["denoising"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.long
def test_a_single_file_is_the_folder_in_other_words(model, loaded, single, tmp_path):
    other = load(single)
    batch = batch_of(model, tmp_path / "pics", [Draw(5)], encoders(model))
    assert model.description.prediction_type == other.description.prediction_type
    with torch.no_grad():
        one, two = (each.family.predict(each, batch) for each in (model, other))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    packed = [loaded("4bit"), load(single, quantization="4bit")]
    for part in [part for part, told in model.family.sheet.components.items() if told.kohya]:
        assert packed[0].component_hash(part) == packed[1].component_hash(part) != model.component_hash(part)


PACKED = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}


@pytest.mark.parametrize(
    "bits", [pytest.param("4bit", marks=pytest.mark.long), pytest.param("8bit", marks=pytest.mark.slow)]
)
def test_a_base_in_few_bits_is_trained_on_and_read_back(model, loaded, bits, tmp_path):
    full, model = model, bare(loaded(bits))
    for name, module in model.modules.items():
        packed = {type(part).__name__ for part in module.modules()} & set(PACKED.values())
        assert packed == (set() if name == "vae" else {PACKED[bits]}), name
    before = hash_of_module(model.predictor)
    batch = batch_of(full, tmp_path / "pics", [Draw(3)])
    adapter = awake(model, targets="attention", conv_rank=4 if model.family.sheet.convolutions else None)
    Denoising(model.family, model).sums(batch)["denoising"].backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in adapter.parameters.values())
    with torch.no_grad(), disabled(adapter):
        near, exact = (each.family.predict(each, batch) for each in (model, full))
    assert 0 < float((near - exact).norm() / exact.norm()) < 0.3
    path = tmp_path / "x.safetensors"
    done = export_lora(path, model, adapter, ExportFacts("x", {}), dtype=torch.float32)
    proof = read_back(path, model, adapter)
    assert sum(proof.layers.values()) == done.layers
    assert proof.weights < 1e-5
    assert proof.relative < 1e-3
    assert hash_of_module(model.predictor) == before, "the base has changed"


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "precision"), [("none", "no"), ("4bit", "bf16"), ("8bit", "no")])
def test_a_run_that_was_cut_ends_with_the_same_bytes(base, bits, precision, tmp_path):
    write_csv(tmp_path / "pics" / "metadata.csv", draw_pictures(tmp_path / "pics", 8))
    desk = Desk(tmp_path, base)
    side = 2 * max(8, find("auto", resolve(str(base))).describe(resolve(str(base))).size_multiple)
    options = {
        "max_steps": 4, "save_steps": 2, "resolution": side, "batch_size": 2, "lora_dropout": 0.1,
        "output_name": "same", "quantization": bits, "mixed_precision": precision,
        "logging": {"tensorboard": False}, "validation": {"split": 0},
    }  # fmt: skip
    done = desk.train(desk.config(output_dir="output/straight", **options))
    assert done.code == 0, done.text
    straight, cut = (tmp_path / "output" / name for name in ("straight", "cut"))
    shutil.copytree(straight, cut)
    for left in ("result.json", "pytorch_lora_weights.safetensors", "same.safetensors"):
        (cut / left).unlink()
    shutil.rmtree(cut / "checkpoints" / "step-000004")
    again = desk.train(desk.config("cut.yaml", output_dir="output/cut", **options))
    assert again.code == 0, again.text
    assert "going on from step-" in again.out
    files = [folder / "pytorch_lora_weights.safetensors" for folder in (straight, cut)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert json.loads((cut / "result.json").read_text(encoding="utf-8"))["readback"]["layers"]
