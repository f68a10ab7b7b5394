"""Picture LoRAs put into their base for good: a single file or a folder, as the base came, proven by loading
it."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.files import sync_folder
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.export.rewritten import Change, rewrite
from lora_scripts.families._components import config_of
from lora_scripts.families._original_names import Place, places
from lora_scripts.families._source import Source, find, resolve

from .inspect import inspect_file
from .picture_loras import (
    PictureLayer,
    PictureLora,
    WornPicture,
    file_of,
    find_modules,
    into,
    read_picture_lora,
)
from .picture_proof import Proof, prove

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TWINS = "model_ema."
"""What the averaged twins of a U-Net's weights start with, in files from training."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".onnx_data")
"""Files that hold weights: those of a folder that are not merged would be out of date, and stay out."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class MergedPictures:
    """``layers``: changed weights. ``twins``: averaged weights that were left as they are. ``left_out``:
    files of a folder that nobody would have merged. ``proof``: None where none was asked for."""

    path: Path
    layers: int
    twins: int
    left_out: int
    proof: Proof | None


def open_base(base: str | None, loras: Sequence[PictureLora]) -> tuple[Source, Any, Any]:
    """The base's source, family and description: ``base``, else what a LoRA's own configuration names.

    Raises ProblemsError: LS4317 nobody names it, LS4455 a language model, and those of
    ``families._source.resolve`` and of the family's ``describe``.
    """
    told = next((dict(found) for lora in loras if (found := inspect_file(lora.path).config)), {})
    named = base or told.get("base_model")
    if not named:
        raise ProblemsError(Problem("LS4317", {"missing": "--base", "path": str(loras[0].path)}))
    source = resolve(str(named))
    if base is None:
        source = replace(source, components=told.get("components") or {})
    family: Any = find("auto", source)
    if family.sheet.task != "image-generation":
        params = {"path": str(source.path), "title": family.sheet.named()}
        raise ProblemsError(Problem("LS4455", params, Location(str(source.path))))
    return source, family, family.describe(source)


def wear(texts: Sequence[str], base: str | None) -> tuple[Source, Any, Any, list[WornPicture]]:
    """Base and LoRAs, each layer with its module.

    Raises ProblemsError: LS4040 no such file, LS4042 and LS4452 no LoRA that can be merged, LS4309 a DoRA by
    halves, LS4450 a LoRA that fits nowhere, LS4451 one that fits in part, and those of ``open_base``.
    """
    choices = [file_of(text) for text in texts]
    loras = [read_picture_lora(choice.path) for choice in choices]
    problems = [
        Problem("LS4309", {"lora": text}, Location(str(lora.path)))
        for text, choice, lora in zip(texts, choices, loras, strict=True)
        if not abs(choice.strength) < float("inf") or (lora.dora and choice.strength != 1.0)
    ]
    if problems:
        raise ProblemsError(problems)
    source, family, description = open_base(base, loras)
    worn = []
    for choice, lora in zip(choices, loras, strict=True):
        found, missing = find_modules(lora, family, description.modules)
        wrong = [layer.module for place, layer in found.items() if not _fits(lora, layer, place, description)]
        if missing or wrong:
            params = {
                "path": str(lora.path), "base": source.name, "total": len(lora.layers),
                "count": len(missing) + len(wrong), "layers": ", ".join((missing + wrong)[:4]),
            }  # fmt: skip
            code = "LS4450" if params["count"] == params["total"] else "LS4451"
            problems.append(Problem(code, params, Location(str(lora.path))))
        worn.append(WornPicture(lora, choice.strength, found))
    if problems:
        raise ProblemsError(problems)
    return source, family, description, worn


def _fits(lora: PictureLora, layer: PictureLayer, place: tuple[str, str], description: Any) -> bool:
    shape = description.modules[place[0]][place[1]]
    up, down = lora.file.entries[layer.up].shape, lora.file.entries[layer.down].shape
    kernel = lora.file.entries[layer.middle].shape[2:] if layer.middle else down[2:]
    inputs = (down[1], *kernel)
    ones = (1,) * (len(shape) - 2)
    height = layer.rows[1] - layer.rows[0] if layer.rows else up[0]
    return height == shape[0] and up[1] == down[0] and (*inputs, *ones)[: len(shape) - 1] == shape[1:]


def change_of(jobs: Sequence[tuple[WornPicture, PictureLayer, Place | None]]) -> Change:
    """The change of one tensor by all layers that are for it; each may be for some of its rows."""

    def change(weight: Tensor) -> Tensor:
        weight = weight.contiguous()
        dora = any(layer.magnitude for _, layer, _ in jobs)
        before = weight.clone() if dora else weight
        for worn, layer, place in jobs:
            rows = slice(place.start, place.stop) if place else slice(None)
            into(weight[rows], worn.lora.values(layer), worn.strength, before[rows])
        return weight

    return change


def _by_file(
    source: Source, family: Any, description: Any, worn: Sequence[WornPicture]
) -> dict[Path, dict[str, Change]]:
    """File -> tensor -> its change. ProblemsError LS4451 where a weight stands nowhere in the files."""
    wanted: dict[tuple[str, str], list[tuple[WornPicture, PictureLayer]]] = defaultdict(list)
    for each in worn:
        for place, layer in each.layers.items():
            wanted[place].append((each, layer))
    jobs: dict[tuple[Path, str], list[tuple[WornPicture, PictureLayer, Place | None]]] = defaultdict(list)
    built = description.build() if source.kind == "file" else {}
    lost: list[str] = []
    table: dict[str, tuple[Path, str, Place | None]]
    for component in sorted({component for component, _ in wanted}):
        part = family.sheet.components[component]
        if source.kind == "file":
            found = places(family.layouts[component], source.shapes, config_of(built[component]))
            owner = next(iter(source.headers.values())).path
            table = {name: (owner, place.name, place) for name, place in found.items()}
        else:
            table = {
                name: (header.path, name, None)
                for key, header in source.headers.items()
                if key.startswith(f"{component}/")
                for name in header.shapes
            }
        for module in [module for own, module in wanted if own == component]:
            names = [f"{start}{module}.weight" for start in ("", part.inner)]
            at = next((table[name] for name in names if name in table), None)
            if at is None:
                lost.append(f"{component}.{module}")
                continue
            for each, layer in wanted[component, module]:
                jobs[at[0], at[1]].append((each, layer, at[2]))
    if lost:
        params = {
            "path": str(worn[0].lora.path), "base": source.name, "total": len(wanted), "count": len(lost),
            "layers": ", ".join(lost[:4]),
        }  # fmt: skip
        raise ProblemsError(Problem("LS4451", params, Location(str(source.path))))
    changes: dict[Path, dict[str, Change]] = defaultdict(dict)
    for (path, name), items in jobs.items():
        changes[path][name] = change_of(items)
    return changes


def told(worn: Sequence[WornPicture]) -> dict[str, str]:
    """What the header of a merged file says of its making."""
    named = [{"name": each.lora.path.stem, "strength": each.strength} for each in worn]
    return {"lora_scripts_merged": json.dumps(named, ensure_ascii=False, sort_keys=True)}


def merge_pictures(
    base: str | None,
    loras: Sequence[str],
    output: Path,
    *,
    dtype: str | None = None,
    proven: bool = True,
    progress: Progress | None = None,
) -> MergedPictures:
    """Writes ``output`` as the base came, a file with the original's names and precision or a folder, and
    proves it: loaded again, it predicts what the base with the LoRAs on it predicts. Without ``proven`` no
    model is loaded.

    The file is written tensor by tensor and appears whole or not at all. ``dtype``: of all weights instead
    of each one's own. ``progress(done, total)`` counts tensors. Raises ProblemsError as ``wear``; LS4308
    ``output`` exists, LS4453 it is named as another kind than the base, LS4454 another effect.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ProblemsError(Problem("LS4308", {"path": str(output)}, Location(str(output))))
    source, family, description, worn = wear(loras, base)
    single = source.kind == "file"
    if single != (output.suffix.lower() == ".safetensors"):
        near = output.with_suffix(".safetensors") if single else output.with_suffix("")
        params = {"path": str(output), "base": source.name, "near": str(near)}
        raise ProblemsError(Problem("LS4453", params, Location(str(output))))
    import torch

    kind = getattr(torch, dtype) if dtype else None
    changes = _by_file(source, family, description, worn)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.parent / f".tmp-{os.getpid()}-{output.name}"
    left_out = 0
    try:
        if single:
            rewrite(
                source.path, temporary, changes[source.path], metadata=told(worn), dtype=kind,
                progress=progress,
            )  # fmt: skip
        else:
            left_out = _write_folder(source, temporary, changes, worn, kind, progress)
        proof = prove(source, family, temporary, worn) if proven else None
        if output.is_dir():
            output.rmdir()
        temporary.rename(output)
        sync_folder(output.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
    count = sum(len(names) for names in changes.values())
    twins = sum(name.startswith(TWINS) for name in source.shapes)
    return MergedPictures(output, count, twins, left_out, proof)


def _write_folder(
    source: Source,
    folder: Path,
    changes: Mapping[Path, Mapping[str, Change]],
    worn: Sequence[WornPicture],
    dtype: torch.dtype | None,
    progress: Progress | None,
) -> int:
    """Copies the base's folder, its weights with the changes in them; how many weights files stayed out."""
    total = sum(len(header.shapes) for header in source.headers.values())
    done = left_out = 0
    kept = {header.path for header in source.headers.values()}
    for path in sorted(source.path.rglob("*")):
        inside = path.relative_to(source.path)
        if not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        if path in kept:
            own = changes.get(path, {})
            onward = (lambda n, _, d=done: progress(d + n, total)) if progress else None
            if own or dtype is not None:
                rewrite(path, target, own, metadata=told(worn) if own else None, dtype=dtype, progress=onward)
            else:
                shutil.copyfile(path, target)
            done += sum(len(h.shapes) for h in source.headers.values() if h.path == path)
        elif path.suffix.lower() in WEIGHTS:
            left_out += 1
        else:
            shutil.copyfile(path, target)
    return left_out
