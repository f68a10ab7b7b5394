"""The layers of a picture LoRA in any of the field's layouts, and which modules of a base they are for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.export.rewritten import TensorFile
from lora_scripts.families._base import Sheet
from lora_scripts.families._header import Header, read_header
from lora_scripts.families._original_names import unet_names
from lora_scripts.families._signatures import signature, title

from .loras import LoraChoice, parse_choice
from .text_clients import is_text_adapter

if TYPE_CHECKING:
    from torch import Tensor

FILE = "pytorch_lora_weights.safetensors"
DOWN = re.compile(
    r"^(?P<module>.+?)"
    r"(?P<end>\.lora_down|\.lora_A(?:\.default)?|\.lora\.down|_lora\.down|\.lora_linear_layer\.down)\.weight$"
)
MAGNITUDES = (".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight")
PEFT = "base_model.model."

Modules = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Component -> module -> shape of its weight, as ``Description.modules``."""


@dataclass(frozen=True)
class PictureLayer:
    """``weight + scale * up @ down``, of a DoRA with rows (or columns) of the lengths ``magnitude``. The
    fields but ``rank``, ``scale`` and ``rows`` are names of the file's tensors. ``middle``: LyCORIS' core of
    a split convolution. ``rows``: which of ``up``'s are the module's, of a weight that several share."""

    module: str
    down: str
    up: str
    rank: int
    scale: float
    middle: str | None = None
    magnitude: str | None = None
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class Values:
    """``down`` (r, in[, k, k]) and ``up`` (out, r[, 1, 1]) in float32, the scale not yet in them.
    ``magnitude``: lengths of the outputs' rows, (out,), or of the inputs' columns, (in,) (``by_input``)."""

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None
    by_input: bool = False

    def delta(self, strength: float = 1.0) -> Tensor:
        """(out, in * k * k): what is added to the flattened weight, a DoRA's lengths left out."""
        product: Tensor = self.up.flatten(1) @ self.down.flatten(1)
        return product.mul_(self.scale * strength)


@dataclass(frozen=True)
class PictureLora:
    """``layers``: the file's own name of a module -> its layer."""

    path: Path
    file: TensorFile = field(repr=False)
    layers: Mapping[str, PictureLayer] = field(repr=False)

    @property
    def dora(self) -> bool:
        return any(layer.magnitude for layer in self.layers.values())

    def values(self, layer: PictureLayer) -> Values:
        """The numbers of one layer, read now."""
        import torch

        down, up = (self.file.get(name).float() for name in (layer.down, layer.up))
        if layer.rows:
            up = up[slice(*layer.rows)]
        if layer.middle:
            core = self.file.get(layer.middle).float()
            down = torch.einsum("rskl,si->rikl", core, down.flatten(1))
        if layer.magnitude is None:
            return Values(down, up, layer.scale)
        length = self.file.get(layer.magnitude).float()
        if layer.rows:
            length = length[slice(*layer.rows)]
        columns = length.ndim > 1 and length.shape[0] == 1 and up.shape[0] != 1
        by_input = columns and layer.magnitude.endswith(".dora_scale")  # PEFT's (1, out, 1, 1) are rows
        return Values(down, up, layer.scale, length.flatten(), by_input)


@dataclass(frozen=True)
class WornPicture:
    """A LoRA, how strongly it acts, and its layers by the (component, module) that they are for."""

    lora: PictureLora
    strength: float
    layers: Mapping[tuple[str, str], PictureLayer] = field(repr=False)


def file_of(text: str) -> LoraChoice:
    """``FILE``, ``FILE:0.8`` or the folder of a run that holds the file. ProblemsError LS4040 where there is
    none."""
    head, _, tail = text.rpartition(":")
    for place, rest in ((text, ""), (head, f":{tail}")):
        if place and (Path(place).expanduser() / FILE).is_file():
            return parse_choice(str(Path(place).expanduser() / FILE) + rest)
    return parse_choice(text)


def is_picture_lora(text: str) -> bool:
    """Whether ``--lora`` names a LoRA for pictures; a text LoRA, or nothing at all, is said elsewhere."""
    try:
        path = file_of(text).path
        header = read_header(path)
    except ProblemsError:
        return False
    return signature(header.shapes) == "lora" and not is_text_adapter(header)


def all_for_pictures(texts: Sequence[str]) -> bool:
    """Which kind of model the LoRAs belong to. ProblemsError LS4456 for some of each kind."""
    kinds = [is_picture_lora(text) for text in texts]
    if any(kinds) and not all(kinds):
        others = ", ".join(text for text, mine in zip(texts, kinds, strict=True) if mine != kinds[0])
        for text, mine in zip(texts, kinds, strict=True):
            if not mine:
                file_of(text)  # a file that is not there is the plainer trouble
        raise ProblemsError(Problem("LS4456", {"texts": others}))
    return all(kinds)


def read_picture_lora(path: Path) -> PictureLora:
    """Reads the names and scales of a LoRA.

    Raises ProblemsError: LS4003 to LS4005 an unreadable file, LS4042 not a LoRA, LS4452 parts that cannot be
    put into a base.
    """
    header = read_header(path)
    kind, where = signature(header.shapes), Location(str(path))
    if kind != "lora":
        params = {"path": str(path), "kind": title(kind) or "?"}
        raise ProblemsError(Problem("LS4042", params, where))
    file, settings = TensorFile(path), _settings(header)
    used: set[str] = set()
    layers: dict[str, PictureLayer] = {}
    for name in header.shapes:
        match = DOWN.match(name)
        if match is None:
            continue
        module, up = match["module"], _partner(name, match["end"])
        if up not in header.shapes:
            continue
        alpha = f"{module}.alpha"
        middle = f"{module}.lora_mid.weight"
        magnitude = next((module + end for end in MAGNITUDES if module + end in header.shapes), None)
        rank = header.shapes[up][1]
        told = float(file.get(alpha)) / rank if alpha in header.shapes else None
        scale = _scale(settings, module, rank) if told is None else told
        middle_name = middle if middle in header.shapes else None
        layers[module] = PictureLayer(module, name, up, rank, scale, middle_name, magnitude)
        used |= {name, up, alpha, middle, magnitude or name}
    foreign = [name for name in header.shapes if name not in used]
    if foreign:
        told_of = {"path": str(path), "count": len(foreign), "names": ", ".join(sorted(foreign)[:3])}
        raise ProblemsError(Problem("LS4452", told_of, where))
    return PictureLora(path, file, layers)


def _partner(name: str, end: str) -> str:
    other = end.replace("down", "up") if "down" in end else end.replace("lora_A", "lora_B")
    return name.removesuffix(f"{end}.weight") + f"{other}.weight"


def _settings(header: Header) -> dict[str, Any]:
    """What Diffusers writes into the header of its own layout: ``unet.r``, ``unet.lora_alpha`` ..."""
    try:
        found = json.loads(header.metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _scale(settings: Mapping[str, Any], module: str, rank: int) -> float:
    """The factor in front of ``up @ down`` where the file has no alpha of the layer's own: alpha is the rank
    unless the header says otherwise."""
    component, _, inner = module.partition(".")
    alpha = settings.get(f"{component}.lora_alpha")
    for pattern, value in (settings.get(f"{component}.alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", inner):
            alpha = value
            break
    if alpha is None:
        return 1.0
    root = bool(settings.get(f"{component}.use_rslora"))
    return float(alpha) / (math.sqrt(rank) if root else rank)


def _dotted(name: str, sheet: Sheet) -> tuple[str, str]:
    """Component and module of a name with dots; without a component, or with ComfyUI's word for it, it is the
    predictor's."""
    plain = name.removeprefix(PEFT).removeprefix("diffusion_model.").replace(".processor.", ".")
    if plain.endswith(".to_out"):
        plain += ".0"
    head, _, tail = plain.partition(".")
    return (head, tail) if head in sheet.components else (sheet.predictor, plain)


def find_modules(
    lora: PictureLora, family: Any, modules: Modules
) -> tuple[dict[tuple[str, str], PictureLayer], list[str]]:
    """(component, module) -> layer, and the names in the file that no module of the base answers to."""
    sheet: Sheet = family.sheet
    kohya: dict[str, tuple[str, str]] = dict(family.modules_by_name(modules))
    prefix = sheet.components[sheet.predictor].kohya
    for module, original in unet_names(modules[sheet.predictor]).items():
        kohya.setdefault(f"{prefix}_{original.replace('.', '_')}", (sheet.predictor, module))
    if len(sheet.text_encoders) == 1:
        own = sheet.components[sheet.text_encoders[0]].kohya
        for name, place in list(kohya.items()):
            if name.startswith(f"{own}_"):
                kohya.setdefault("lora_te1_" + name.removeprefix(f"{own}_"), place)
    for name, place in list(kohya.items()):  # CLIP's names without what newer libraries have dropped
        kohya.setdefault(name.replace("_text_model_", "_", 1), place)
    found: dict[tuple[str, str], PictureLayer] = {}
    missing: list[str] = []
    groups = family.lora_groups(modules)
    for name, layer in lora.layers.items():
        shared = _shared(layer, groups.get(name) or groups.get(_original(name)), lora, modules)
        placed = kohya.get(name) or _by_path(name, sheet, modules)
        if shared and not shared.keys() & found.keys():
            found |= shared
        elif placed is None or placed in found:
            missing.append(name)
        else:
            found[placed] = layer
    return found, missing


def _original(name: str) -> str:
    """Kohya's name of a layer that is called by its original name with dots."""
    return re.sub(r"^(?:model\.)?diffusion_model\.", "lora_unet_", name).replace(".", "_")


def _shared(
    layer: PictureLayer, group: list[tuple[str, str]] | None, lora: PictureLora, modules: Modules
) -> dict[tuple[str, str], PictureLayer]:
    """A layer of a weight that several modules have rows in, as one for each; empty where it is none."""
    rows = [modules[component][module][0] for component, module in group or ()]
    if not group or lora.file.entries[layer.up].shape[0] != sum(rows):
        return {}
    starts = [sum(rows[:number]) for number in range(len(rows))]
    return {
        place: layer if len(group) == 1 else replace(layer, rows=(start, start + count))
        for place, start, count in zip(group, starts, rows, strict=True)
    }


def _by_path(name: str, sheet: Sheet, modules: Modules) -> tuple[str, str] | None:
    component, path = _dotted(name, sheet)
    inner = sheet.components[component].inner
    for candidate in (path, path.removeprefix(inner), inner + path):
        if candidate in modules.get(component, {}):
            return component, candidate
    return None


def into(weight: Tensor, values: Values, strength: float, original: Tensor) -> None:
    """Adds one layer to ``weight`` (float32, changed in place): ``scale * up @ down``; for a DoRA what makes
    the lengths of ``original + scale * up @ down`` those that were trained (Liu et al. 2024)."""
    flat = weight.view(weight.shape[0], -1)
    if values.magnitude is None:
        flat.addmm_(values.up.flatten(1), values.down.flatten(1), alpha=values.scale * strength)
        return
    base = original.reshape(original.shape[0], -1)
    turned = base + values.delta(strength)
    if values.by_input:
        turned = turned.view(original.shape).transpose(0, 1)
        lengths = turned.reshape(turned.shape[0], -1).norm(dim=1)
        turned = (turned * (values.magnitude / lengths).view(-1, *(1 for _ in turned.shape[1:]))).transpose(
            0, 1
        )
        turned = turned.reshape(flat.shape)
    else:
        turned *= (values.magnitude / turned.norm(dim=1)).unsqueeze(1)
    flat += turned - base
