"""Which programs load a LoRA file with its full effect, by how its keys are named.

Settled by running or reading Diffusers 0.42, ComfyUI 0.3.64, the A1111 WebUI 1.10.1, Forge and sd-scripts
0.10.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_scripts.families._header import Header

CLIENTS = ("Diffusers", "ComfyUI", "A1111 WebUI", "Forge", "sd-scripts")


@dataclass(frozen=True)
class Verdict:
    """``answer``: whole effect, a part, none, or not known. ``reason``: a ``say`` key, where there is one."""

    answer: Literal["yes", "part", "no", "unknown"]
    reason: str | None = None


YES = Verdict("yes")
TRANSFORMERS = ("flux", "sd3", "z_image")
"""Kinds of bases that are no U-Nets."""


def _all(verdict: Verdict, names: Collection[str] = CLIENTS) -> dict[str, Verdict]:
    return dict.fromkeys(names, verdict)


def _flow(layout: str, base: str) -> dict[str, Verdict]:
    """Of LoRAs for transformers, which not every program runs."""
    found = _all(Verdict("unknown")) | {"ComfyUI": YES}
    if base == "flux":
        found |= {"Diffusers": YES, "Forge": YES, "A1111 WebUI": Verdict("no", "inspect.client.other_base")}
    elif base == "z_image":
        other = _all(Verdict("no", "inspect.client.other_base"), ("A1111 WebUI", "sd-scripts"))
        return found | other | {"Diffusers": YES}
    else:
        refused = Verdict("no", "inspect.client.alpha_refused")
        found["Diffusers"] = refused if layout == "kohya" else YES
    passed = Verdict("no", "inspect.client.diffusers_names")
    return found | {"sd-scripts": YES if layout == "kohya" else passed}


def _by_layout(layout: str | None, base: str | None) -> dict[str, Verdict]:
    """The verdicts that the naming of the keys alone decides."""
    if base in TRANSFORMERS and layout in ("kohya", "diffusers"):
        return _flow(layout, base)
    if layout == "kohya" or (layout == "kohya_ldm" and base == "sdxl"):
        return _all(YES)
    if layout == "kohya_ldm":
        refused = Verdict("no", "inspect.client.ldm_names")
        return _all(YES) | _all(refused, ("Diffusers", "sd-scripts"))
    if layout == "diffusers":
        none = Verdict("no", "inspect.client.diffusers_names")
        part = Verdict("part", "inspect.client.attention_lost")
        return _all(none) | {"Diffusers": YES, "ComfyUI": part}
    if layout == "diffusers_processor":
        none = Verdict("no", "inspect.client.diffusers_names")
        refused = Verdict("no", "inspect.client.processor_names")
        return _all(YES) | {"Diffusers": refused, "A1111 WebUI": none, "sd-scripts": none}
    if layout == "pti":
        return _all(Verdict("no", "inspect.client.pti_names"))
    if layout == "peft":
        return _all(Verdict("no", "inspect.client.language_model"))
    return _all(Verdict("unknown"))


def _attention_only(names: Iterable[str]) -> bool:
    """Whether all layers are those that ComfyUI looks for under ``.processor.`` and nowhere else."""
    return all(".to_" in name for name in names)


def _parted(names: Iterable[str], starts: tuple[str, ...]) -> bool:
    """Whether some attention layer of an OpenCLIP text encoder lacks one of its four parts."""
    whole = {"q", "k", "v", "out"}
    found: dict[str, set[str]] = {}
    for name in names:
        layer, _, part = name.partition("_self_attn_")
        if part and name.startswith(starts):
            found.setdefault(layer, set()).add(part.partition("_proj")[0])
    return any(parts != whole for parts in found.values())


def verdicts(
    header: Header, layout: str | None, base: str | None, modules: int, alphas: Sequence[float]
) -> dict[str, Verdict]:
    """Client -> what it makes of the file, the traps that clients are silent about included."""
    if '"builtin:demo"' in header.metadata.get("lora_scripts_config", ""):
        return _all(Verdict("no", "inspect.client.demo"), CLIENTS[1:]) | {"Diffusers": YES}
    found = _by_layout(layout, base)
    names = header.shapes
    changes: list[tuple[Collection[str], Verdict]] = []
    with_alpha = sum(name.endswith(".alpha") for name in names)
    if layout in ("kohya", "kohya_ldm") and base not in TRANSFORMERS:
        text = [name for name in names if name.startswith("lora_te")]
        if len(alphas) > 1 or 0 < with_alpha < modules:
            changes.append((("Diffusers",), Verdict("part", "inspect.client.mixed_alpha")))
        if "lora_adapter_metadata" in header.metadata:
            changes.append((("Diffusers",), Verdict("no", "inspect.client.adapter_metadata")))
        if any("self_attn" in name for name in text) and not any("out_proj" in name for name in text):
            changes.append((("Diffusers",), Verdict("no", "inspect.client.text_out")))
        if base == "sdxl" and layout == "kohya" and any("samplers_" in name for name in names):
            changes.append((("A1111 WebUI",), Verdict("part", "inspect.client.samplers")))
        if _parted(text, ("lora_te2_",) if base == "sdxl" else ("lora_te_",) if base == "sd2" else ()):
            changes.append((("A1111 WebUI",), Verdict("part", "inspect.client.parted_attention")))
        if text and not any("text_model_" in name for name in text):
            changes.append((CLIENTS[1:], Verdict("part", "inspect.client.text_model")))
        elif base == "sd15" and any(name.startswith("lora_te1_") for name in text):
            changes.append((("sd-scripts",), Verdict("part", "inspect.client.te1")))
    if layout == "diffusers" and base not in TRANSFORMERS and _attention_only(names):
        found["ComfyUI"] = Verdict("no", "inspect.client.attention_only")
    if any(name.endswith(".dora_scale") for name in names):
        changes.append((("Diffusers", "sd-scripts"), Verdict("part", "inspect.client.dora")))
    for clients, verdict in changes:
        for client in clients:
            if found[client].answer == "yes":
                found[client] = verdict
    return {client: found[client] for client in CLIENTS}
