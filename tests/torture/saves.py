"""What a run writes that must outlive it: a checkpoint, the exports of both tasks, its records."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from lora_scripts.core.files import TEMPORARY, clear_unfinished, copy_atomic
from lora_scripts.core.paths import ADAPTER_WEIGHTS, RunFolder
from lora_scripts.training.checkpoint import CheckpointStore, Snapshot
from lora_scripts.training.state import TrainingState


class Save(Protocol):
    """``prepare`` a folder, ``act`` in it; ``wrong`` says what is lost, ``again`` what no longer works."""

    name: str

    def prepare(self, root: Path) -> None: ...

    def act(self, root: Path) -> None: ...

    def wrong(self, root: Path, *, finished: bool) -> str | None: ...

    def again(self, root: Path) -> str | None: ...


def snapshot(step: int) -> Snapshot:
    """Small tensors of every kind that is saved; each step has its own."""
    generator = torch.Generator().manual_seed(step)
    names = ("unet.a.lora_A.weight", "unet.b.lora_B.weight")
    made = {name: torch.randn(4, 8, generator=generator) for name in names}
    kept = {
        "m|exp_avg": torch.randn(3, generator=generator).bfloat16(),
        "m|state1": torch.arange(7, dtype=torch.uint8),
        "m|exp_avg_sq": torch.randn(2500, generator=generator),
    }
    return Snapshot(step, made, kept, {"training": {"step": step}})


def same(one: Snapshot, two: Snapshot) -> bool:
    pairs = ((one.adapter, two.adapter), (one.optimizer, two.optimizer))
    equal = all(a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a) for a, b in pairs)
    return equal and one.state == two.state


@dataclass
class CheckpointSave:
    """A third checkpoint where two are kept, so that the save ends with pruning; or the first of all."""

    name: str = "checkpoint"
    before: tuple[int, ...] = (1, 2)
    new: int = 3

    def store(self, root: Path) -> CheckpointStore:
        return CheckpointStore(root / "checkpoints", identity="0" * 64, keep=2)

    def prepare(self, root: Path) -> None:
        for step in self.before:
            self.store(root).save(snapshot(step))

    def act(self, root: Path) -> None:
        self.store(root).save(snapshot(self.new))

    def wrong(self, root: Path, *, finished: bool) -> str | None:
        store = self.store(root)
        step, damaged = store.newest()
        allowed = {self.new} if finished else {self.new, self.before[-1] if self.before else None}
        if step not in allowed:
            return f"the newest whole checkpoint is {step}, of {store.steps()}"
        if damaged:
            return f"something half written looks like a checkpoint: {damaged}"
        if half := [each for each in store.steps() if store.damage(each) is not None]:
            return f"half removed, and still called checkpoints: {half}"
        if step is not None and not same(store.load(step), snapshot(step)):
            return f"checkpoint {step} is not what was saved"
        return None

    def again(self, root: Path) -> str | None:
        store = self.store(root)
        store.save(snapshot(self.new + 1))
        if store.newest() != (self.new + 1, {}) or len(store.steps()) > store.keep:
            return f"after the next save there are {store.steps()}, the newest is {store.newest()}"
        return left_over(root)


def left_over(root: Path) -> str | None:
    found = [path.name for path in root.rglob(f"{TEMPORARY}*")]
    return f"left over: {found}" if found else None


@dataclass
class FilesSave:
    """Files that are replaced one by one. ``write(root, version)`` writes version 1 or 2 of all of them;
    in each folder the file called ``last`` is there only when all others are. ``replaces``: whether there are
    old ones."""

    name: str
    write: Callable[[Path, int], object]
    last: str | None = None
    replaces: bool = True
    _versions: dict[int, dict[str, bytes]] = field(default_factory=dict)

    def prepare(self, root: Path) -> None:
        if not self._versions:
            for version in (2, 1):  # what version 2 writes is written over version 1 in the end
                self.write(root / "versions" / str(version), version)
                self._versions[version] = contents(root / "versions" / str(version))
            shutil.rmtree(root / "versions")
        if self.replaces:
            self.write(root / "run", 1)
        else:
            self._versions[1] = {}
            (root / "run").mkdir()

    def act(self, root: Path) -> None:
        self.write(root / "run", 2)

    def wrong(self, root: Path, *, finished: bool) -> str | None:
        found = {name: data for name, data in contents(root / "run").items() if TEMPORARY not in name}
        old, new = self._versions[1], self._versions[2]
        if missing := (new if finished else old).keys() - found.keys():
            return f"missing: {sorted(missing)}"
        for name, data in found.items():
            if data != new.get(name) and (finished or data != old.get(name)):
                return f"{name} is neither the old file nor the new one"
        for name in found:
            folder, _, file = name.rpartition("/")
            beside = {other for other in new if other.rpartition("/")[0] == folder}
            if file == self.last and found[name] == new[name] and any(found.get(o) != new[o] for o in beside):
                return f"{name} is there before the others"
        return None

    def again(self, root: Path) -> str | None:
        for folder in [root / "run", *(path for path in (root / "run").rglob("*") if path.is_dir())]:
            clear_unfinished(folder)
        self.write(root / "run", 2)
        return self.wrong(root, finished=True) or left_over(root)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def stirred(adapter: Any, version: int) -> None:
    """Gives every matrix the numbers of a version."""
    with torch.no_grad():
        for number, parameter in enumerate(adapter.parameters.values()):
            generator = torch.Generator().manual_seed(1000 * version + number)
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def picture_export(base: Path) -> FilesSave:
    """A LoRA file, and the copy of it that is called the best."""
    from lora_scripts.adapters.attach import attach
    from lora_scripts.adapters.spec import AdapterSpec
    from lora_scripts.export.kohya import export_lora
    from lora_scripts.families import _source
    from tests.export.conftest import FACTS

    source = _source.resolve(str(base))
    model: Any = _source.find("auto", source).load(source, dtype=torch.float32)
    adapter = attach(model, AdapterSpec(4, 4.0), seed=1)

    def write(root: Path, version: int) -> None:
        stirred(adapter, version)
        export_lora(root / "style.safetensors", model, adapter, FACTS)
        copy_atomic(root / "style.safetensors", root / "style-best.safetensors")

    return FilesSave("export of pictures", write)


def text_export(base: Path) -> FilesSave:
    """A PEFT folder (weights, settings, card, tokenizer), and the copy of it that is called the best."""
    from lora_scripts.adapters.attach import attach
    from lora_scripts.adapters.spec import AdapterSpec
    from lora_scripts.export.peft_folder import write_peft
    from lora_scripts.training.text_exports import TextExports
    from tests.export import text_loras

    no_session: Any = None
    model = text_loras.load(base)
    adapter = attach(model, AdapterSpec(rank=4, alpha=6.0), seed=1)

    def write(root: Path, version: int) -> None:
        stirred(adapter, version)
        folder = RunFolder(root, "voice")
        write_peft(folder.adapter(2), model, adapter, text_loras.FACTS)
        TextExports(no_session, TrainingState(), folder).keep_best(2)

    return FilesSave("export of texts", write, ADAPTER_WEIGHTS, replaces=False)


def records_save() -> FilesSave:
    """``config.yaml`` and ``result.json``."""
    from lora_scripts.config.schema import RunConfig
    from lora_scripts.training import records

    def write(root: Path, version: int) -> None:
        folder = RunFolder(root, "style")
        config = RunConfig(train_data_dir="pics", base_model="base", output_dir="out", max_steps=version)
        records.write_config(config, folder)
        records.write_result(folder, TrainingState(step=version), "finished")

    return FilesSave("records", write, "result.json")
