"""Proof that a picture LoRA still does the same after it was merged or renamed: what the base predicts with
the original on it, through Diffusers' own loader, is what the new file makes it predict."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.export.readback import probe
from lora_scripts.families._header import read_header
from lora_scripts.families._loading import beside
from lora_scripts.families._source import Source, resolve

from .convert_layout import write_diffusers
from .inspect import inspect_file
from .loras import LoraChoice, put_on, set_strengths
from .picture_loras import WornPicture, into

if TYPE_CHECKING:
    from torch import Tensor

ALLOWED = {"float32": 1e-2, "float16": 2e-2, "bfloat16": 6e-2}
"""By the precision that was written: the largest distance of predictions, over the LoRA's own effect in
float32, over the prediction where weights were rounded. A lost layer or a wrong strength makes one of the
order of one."""


@dataclass(frozen=True)
class Proof:
    """``largest``: largest absolute difference of the predictions; ``relative``: their distance as in
    ``ALLOWED``. ``layers``: how many layers Diffusers applied for each LoRA."""

    largest: float
    relative: float
    layers: tuple[int, ...] = ()


def predicted(
    family: Any, source: Source, worn: Sequence[LoraChoice] = (), added: WornPicture | None = None
) -> tuple[Tensor, Tensor, list[int]]:
    """What the base predicts for a fixed noisy picture and text, (1, C, h, w) in float32: bare, and with
    ``worn`` on it or ``added`` to its weights; and how many layers each of ``worn`` reached."""
    import torch

    model = family.load(source, dtype=torch.float32)
    item, draw = probe(model)
    batch = family.collate(model, [item], [draw])
    with torch.no_grad():
        bare = family.predict(model, batch)
        if added is not None:
            for (component, module), layer in added.layers.items():
                weight: Any = model.modules[component].get_submodule(module).weight
                into(weight.data, added.lora.values(layer), added.strength, weight.detach().clone())
            return bare, family.predict(model, batch), []
        if not worn:
            return bare, bare, []
        pipe = family.pipeline(model)
        counts = put_on(pipe, worn, family.load_lora)
        set_strengths(pipe, worn)
        return bare, family.predict(model, batch), counts


def readable(worn: Sequence[WornPicture], family: Any, folder: Path) -> list[LoraChoice]:
    """Files with the same effect that Diffusers loads whole: the originals where it does, else copies in its
    own layout."""
    found = []
    for number, each in enumerate(worn):
        path = each.lora.path
        verdict = inspect_file(path).clients.get("Diffusers")
        if verdict is None or verdict.answer != "yes":
            path = folder / f"{number}.safetensors"
            write_diffusers(path, each, family)
        found.append(LoraChoice(path, each.strength))
    return found


def prove(source: Source, family: Any, merged: Path, worn: Sequence[WornPicture]) -> Proof:
    """Compares the base wearing the LoRAs with ``merged``, one after the other, so that one model is in
    memory at a time. Raises ProblemsError LS4454 where they differ."""
    with tempfile.TemporaryDirectory(prefix="lora-scripts-") as name:
        bare, wanted, counts = predicted(family, source, readable(worn, family, Path(name)))
    new = replace(resolve(str(merged)), components={**beside(family, source), **source.components})
    _, got, _ = predicted(family, new)
    return bounded(bare, wanted, got, _precision(new, family), merged, tuple(counts))


def prove_file(
    source: Source, family: Any, worn: WornPicture, path: Path, layers: int | None = None
) -> Proof:
    """Compares the base wearing the file at ``path``, of ``layers`` layers (by default as many), with what
    the original does: through Diffusers where it reads the original whole, else with the original added to
    the weights. ProblemsError LS4454."""
    bare, got, counts = predicted(family, source, [LoraChoice(path)])
    verdict = inspect_file(worn.lora.path).clients.get("Diffusers")
    if verdict is not None and verdict.answer == "yes":
        wanted = predicted(family, source, [LoraChoice(worn.lora.path, worn.strength)])[1]
    else:
        wanted = predicted(family, source, added=worn)[1]
    expected = len(worn.layers) if layers is None else layers
    if counts != [expected]:
        params = {"path": str(path), "found": sum(counts), "expected": expected}
        raise ProblemsError(Problem("LS4031", params, Location(str(path))))
    return bounded(bare, wanted, got, _written(path), path, tuple(counts))


def _written(path: Path) -> str:
    kinds = set(read_header(path).dtypes.values())
    return next(
        (name for kind, name in (("BF16", "bfloat16"), ("F16", "float16")) if kind in kinds), "float32"
    )


def _precision(source: Source, family: Any) -> str:
    """The coarsest precision among the weights that a LoRA can change."""
    parts = tuple(f"{name}/" for name, part in family.sheet.components.items() if part.kohya)
    kinds = {
        kind
        for key, header in source.headers.items()
        for kind in header.dtypes.values()
        if source.kind == "file" or key.startswith(parts)
    }
    return next(
        (name for kind, name in (("BF16", "bfloat16"), ("F16", "float16")) if kind in kinds), "float32"
    )


def bounded(
    bare: Tensor, wanted: Tensor, got: Tensor, precision: str, path: Path, counts: tuple[int, ...] = ()
) -> Proof:
    """The comparison of predictions. Raises ProblemsError LS4454 beyond ``ALLOWED``."""
    distance = float((wanted - got).double().norm())
    size, effect = float(wanted.double().norm()), float((wanted - bare).double().norm())
    scale = effect + 1e-4 * size if precision == "float32" else size
    relative = distance / scale if scale else distance
    allowed = ALLOWED[precision]
    if not relative <= allowed:
        params = {"path": str(path), "difference": f"{relative:.3g}", "allowed": f"{allowed:g}"}
        raise ProblemsError(Problem("LS4454", params, Location(str(path))))
    return Proof(float((wanted - got).abs().max()), relative, counts)
