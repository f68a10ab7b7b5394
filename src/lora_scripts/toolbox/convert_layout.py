"""A picture LoRA under the names of Diffusers' own layout: for programs that read nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.export.kohya import companions_of, diffusers_name, fused, parts_beside
from lora_scripts.export.tensors_file import write_safetensors

from .picture_loras import Modules, PictureLayer, WornPicture, find_modules, read_picture_lora

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .picture_proof import Proof


@dataclass(frozen=True)
class Converted:
    """``layers``: adapted modules in ``path``. ``ranks``: their ranks."""

    path: Path
    layers: int
    ranks: tuple[int, ...]
    proof: Proof


def diffusers_tensors(worn: WornPicture, family: Any, strength: float = 1.0) -> dict[str, Tensor]:
    """``<component>.<module>.lora_A.weight`` (r, in[, k, k]) and ``.lora_B.weight`` (out, r[, 1, 1]) in the
    precision of the file, of a DoRA ``.lora_magnitude_vector.weight``: (out,) or (1, out, 1, 1).

    The layout has no alpha: a client's factor is one, so the layer's own scale is folded into B, and
    ``strength`` with it. Raises ProblemsError: LS4452 a DoRA by its inputs, LS4030 where numbers are not
    finite any more.
    """
    import torch

    found: dict[str, Tensor] = {}
    broken: list[str] = []
    for (component, module), layer in worn.layers.items():
        values = worn.lora.values(layer)
        if values.by_input:
            params = {"path": str(worn.lora.path), "count": 1, "names": str(layer.magnitude)}
            raise ProblemsError(Problem("LS4452", params, Location(str(worn.lora.path))))
        kind = _kind(worn, layer)
        name = diffusers_name(family, component, module)
        halves = {
            f"{name}.lora_A.weight": values.down.to(kind).contiguous(),
            f"{name}.lora_B.weight": (values.up * (values.scale * strength)).to(kind).contiguous(),
        }
        if values.magnitude is not None:
            ones = (1,) * (values.down.ndim - 2)
            shape = (1, -1, *ones) if ones else (-1,)
            halves[f"{name}.lora_magnitude_vector.weight"] = values.magnitude.to(kind).view(shape)
        if not all(bool(torch.isfinite(half).all()) for half in halves.values()):
            broken.append(name)
        found |= halves
    if broken:
        params = {"layers": ", ".join(broken[:3])}
        raise ProblemsError(Problem("LS4030", params, Location(str(worn.lora.path))))
    return found


def _kind(worn: WornPicture, layer: PictureLayer) -> torch.dtype:
    import torch

    kinds = {"F16": torch.float16, "BF16": torch.bfloat16}
    return kinds.get(worn.lora.file.entries[layer.up].dtype, torch.float32)


def write_diffusers(path: Path, worn: WornPicture, family: Any, strength: float = 1.0) -> int:
    """Writes the LoRA to ``path``, atomically, and returns how many layers it has. Nothing of the original's
    header is kept but the name: entries of WebUIs would promise them a file that they cannot read."""
    tensors = diffusers_tensors(worn, family, strength)
    name = worn.lora.file.metadata.get("ss_output_name") or worn.lora.path.stem
    write_safetensors(path, tensors, {"format": "pt", "lora_scripts_from": name})
    return len(worn.layers)


def export_diffusers(base: str | None, lora: str, output: Path) -> Converted:
    """Writes the LoRA ``FILE``, or ``FILE:0.8`` with that strength in it, to ``output`` in Diffusers' layout
    and proves it: Diffusers loads both files onto the base, and the predictions are compared.

    Raises ProblemsError as ``merge_pictures.wear``; LS4308 ``output`` exists, LS4454 another effect.
    """
    return _converted(base, lora, output, "diffusers")


def export_kohya(base: str | None, lora: str, output: Path) -> Converted:
    """As ``export_diffusers``, in kohya's layout."""
    return _converted(base, lora, output, "kohya")


def _converted(base: str | None, lora: str, output: Path, layout: str) -> Converted:
    import tempfile

    from .merge_pictures import wear
    from .picture_proof import prove_file, readable

    if output.exists():
        raise ProblemsError(Problem("LS4308", {"path": str(output)}, Location(str(output))))
    source, family, description, (worn,) = wear([lora], base)
    temporary = output.with_name(f".tmp-{output.stem}.safetensors")
    try:
        if layout == "kohya":
            write_kohya(temporary, worn, family, description.modules)
        else:
            write_diffusers(temporary, worn, family, worn.strength)
        written = read_picture_lora(temporary)
        again = WornPicture(written, 1.0, find_modules(written, family, description.modules)[0])
        with tempfile.TemporaryDirectory(prefix="lora-scripts-") as folder:
            (choice,) = readable([again], family, Path(folder))
            proof = prove_file(source, family, worn, choice.path, len(again.layers))
        temporary.rename(output)
    finally:
        temporary.unlink(missing_ok=True)
    ranks = tuple(sorted({layer.rank for layer in worn.layers.values()}))
    return Converted(output, len(worn.layers), ranks, proof)


def kohya_tensors(worn: WornPicture, family: Any, modules: Modules) -> dict[str, Tensor]:
    """``.lora_down.weight``, ``.lora_up.weight`` and one ``.alpha`` for all layers, in the precision of the
    file; what programs keep as one weight as one layer. Scale and strength are in ``up``.

    Raises ProblemsError: LS4452 a DoRA, LS4030 where numbers are not finite any more.
    """
    import torch

    matched: dict[str, list[str]] = {}
    found: dict[str, Tensor] = {}
    alpha = torch.tensor(float(max(layer.rank for layer in worn.layers.values())))
    for (component, module), layer in worn.layers.items():
        values = worn.lora.values(layer)
        if values.magnitude is not None:
            told = {"path": str(worn.lora.path), "count": 1, "names": str(layer.magnitude)}
            raise ProblemsError(Problem("LS4452", told, Location(str(worn.lora.path))))
        matched.setdefault(component, []).append(module)
        name, kind, rank = family.names(component, module), _kind(worn, layer), values.down.shape[0]
        up = values.up * (values.scale * worn.strength * rank / float(alpha))
        found[f"{name}.lora_down.weight"] = values.down.to(kind).contiguous()
        found[f"{name}.lora_up.weight"] = up.to(kind).contiguous()
        found[f"{name}.alpha"] = alpha.clone()
    for others in (companions_of(family, matched), parts_beside(family, modules, matched)):
        for component, pairs in others.items():
            for module, beside in pairs.items():
                name, like = family.names(component, module), family.names(component, beside)
                down = found[f"{like}.lora_down.weight"]
                tall = modules[component][module][0]
                found[f"{name}.lora_down.weight"] = torch.zeros_like(down)
                found[f"{name}.lora_up.weight"] = torch.zeros((tall, len(down)), dtype=down.dtype)
                found[f"{name}.alpha"] = alpha.clone()
    return fused(family, modules, found)


def write_kohya(path: Path, worn: WornPicture, family: Any, modules: Modules) -> None:
    """Writes the LoRA to ``path``, atomically, with what the original's header says of its making."""
    tensors = kohya_tensors(worn, family, modules)
    told = {n: text for n, text in worn.lora.file.metadata.items() if n.startswith(("ss_", "lora_scripts_"))}
    version = next(iter(family.sheet.base_versions.values()))
    usual = {"ss_base_model_version": version, "ss_network_module": family.sheet.network_module}
    write_safetensors(path, tensors, {**usual, "ss_output_name": worn.lora.path.stem, **told})
