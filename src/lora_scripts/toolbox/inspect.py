"""What a ``.safetensors`` file is, and which programs load it, from its header alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lora_scripts.core.catalogue import say
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.export.peft_layers import WEIGHTS
from lora_scripts.families._header import Header, read_header
from lora_scripts.families._signatures import signature, title

from .clients import Verdict, verdicts
from .embeddings import embedding_base, embedding_layout, embedding_verdicts, vectors
from .text_clients import is_text_adapter, settings_beside, text_verdicts

VERSIONS = {
    "sd_v1": "sd15",
    "sd_v2": "sd2",
    "sdxl": "sdxl",
    "flux": "flux",
    "sd3": "sd3",
    "z_image": "z_image",
}
"""Start of ``ss_base_model_version`` -> kind of base."""
LISTED = 5
"""Files of a folder that are named."""
WIDTHS = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
"""Inputs of a cross-attention key in the published models."""
FACTS = {
    "steps": "ss_steps",
    "epochs": "ss_epoch",
    "pictures": "ss_num_train_images",
    "base_model": "ss_sd_model_name",
    "resolution": "ss_resolution",
}


@dataclass(frozen=True)
class Report:
    """``kind``: a key of the signatures (``lora``, ``sd15``, ``vae`` ...). ``layout``: how a LoRA's keys are
    named, or an embedding's.

    ``base``: the kind of base that a LoRA is for. ``modules``: component prefix -> adapted modules; of an
    embedding, word -> vectors.
    ``clients``: program -> verdict. ``config``: the configuration in the header, if lora-scripts made the
    file.
    """

    path: str
    bytes: int
    tensors: int
    dtypes: tuple[str, ...]
    kind: str | None
    layout: str | None = None
    base: str | None = None
    name: str | None = None
    ranks: tuple[int, ...] = ()
    alphas: tuple[float, ...] = ()
    modules: Mapping[str, int] = field(default_factory=dict)
    trigger_words: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    clients: Mapping[str, Verdict] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "title": title(self.kind, "en"), "base_title": title(self.base, "en")}


def layout_of(names: Mapping[str, Any]) -> str | None:
    """How the keys of a LoRA are named: kohya, kohya_ldm, diffusers, diffusers_processor, pti, peft."""
    joined = "\n".join(names)
    if re.search(r"^lora_(unet|te\d?|transformer)_", joined, re.M):
        return "kohya_ldm" if re.search(r"^lora_unet_(input|output|middle)_block", joined, re.M) else "kohya"
    if re.search(r"^(unet|text_encoder(_\d)?|transformer):", joined, re.M):
        return "pti"
    if ".processor." in joined and "_lora." in joined:
        return "diffusers_processor"
    if joined.startswith("base_model.model.") or "\nbase_model.model." in joined:
        return "peft"
    if re.search(r"^(unet|text_encoder(_\d)?|transformer|diffusion_model)\.", joined, re.M):
        return "diffusers"
    return None


DOWN = re.compile(
    r"^(?P<module>.+?)(?:\.|_)(?:lora_down|lora_A|lora\.down)(?:\.default)?\.weight$|^(?P<pti>.+):down$"
)


def _modules(names: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Adapted module -> shape of its first matrix."""
    found = {}
    for name, shape in names.items():
        if match := DOWN.match(name):
            found[match["module"] or match["pti"]] = shape
    return found


def _component(module: str) -> str:
    if match := re.match(r"^(lora_(?:unet|te\d?|transformer))_", module):
        return match[1]
    if re.match(r"(down|mid|up)_blocks?\.", module):
        return "unet"
    return re.split(r"[.:]", module)[0] if not module.startswith("base_model.model.") else "base_model"


def _base(header: Header, modules: Mapping[str, tuple[int, ...]]) -> str | None:
    version = header.metadata.get("ss_base_model_version", "")
    for start, kind in VERSIONS.items():
        if version.startswith(start):
            return kind
    if any("double_blocks" in name or "single_transformer_blocks" in name for name in modules):
        return "flux"
    if any(re.search(r"(^|[._])layers[._]\d+[._](attention|feed_forward)[._]", name) for name in modules):
        return "z_image"
    if any("joint_blocks" in name or "add_k_proj" in name for name in modules):
        return "sd3"
    wide = (s[1] for n, s in modules.items() if re.search(r"attn2[._](processor[._])?to_k", n) and len(s) > 1)
    if found := WIDTHS.get(next(wide, 0)):
        return found
    # numbered layers do not say which they are, but only keys and values of text have the text's width
    numbered = {s[1] for n, s in modules.items() if n.startswith("unet:") and len(s) > 1}
    return next((kind for width, kind in WIDTHS.items() if width in numbered), None)


def _alphas(header: Header) -> tuple[float, ...]:
    """The values of all ``.alpha`` tensors, the only numbers that are read from the body."""
    from safetensors import safe_open

    names = [n for n, shape in header.shapes.items() if n.endswith(".alpha") and math.prod(shape) == 1]
    if not names:
        return ()
    with safe_open(str(header.path), framework="pt") as handle:
        return tuple(sorted({float(handle.get_tensor(name)) for name in names}))


def _config(header: Header) -> dict[str, Any] | None:
    try:
        found = json.loads(header.metadata.get("lora_scripts_config", "null"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def inspect_file(path: Path) -> Report:
    """What ``path`` is, a file or a text LoRA's folder. Raises ProblemsError: LS4051 no such file,
    LS4052 another folder, LS4003 to LS4005 not a safetensors file."""
    if (path / WEIGHTS).is_file():
        path = path / WEIGHTS
    if path.is_dir():
        files = ", ".join(sorted(file.name for file in path.glob("*.safetensors"))[:LISTED])
        told = {"path": str(path), "files": files or say("inspect.no_files")}
        raise ProblemsError(Problem("LS4052", told, Location(str(path))))
    if not path.is_file():
        raise ProblemsError(Problem("LS4051", {"path": str(path)}, Location(str(path))))
    header = read_header(path)
    kind = signature(header.shapes)
    plain: dict[str, Any] = {
        "path": str(path),
        "bytes": header.size,
        "tensors": len(header.shapes),
        "dtypes": tuple(sorted(set(header.dtypes.values()))),
        "kind": kind,
        "name": header.metadata.get("ss_output_name") or header.metadata.get("modelspec.title"),
        "config": _config(header),
    }
    if kind == "embedding":
        return Report(
            **plain,
            layout=embedding_layout(header),
            base=embedding_base(header),
            modules=vectors(header),
            clients=embedding_verdicts(header),
        )
    if kind != "lora":
        return Report(**plain)
    modules = _modules(header.shapes)
    if is_text_adapter(header):
        return _text_report(plain, header, modules)
    counts: dict[str, int] = {}
    for module in modules:
        counts[_component(module)] = counts.get(_component(module), 0) + 1
    alphas, layout, base = _alphas(header), layout_of(header.shapes), _base(header, modules)
    return Report(
        **plain,
        layout=layout,
        base=base,
        ranks=tuple(sorted({shape[0] for shape in modules.values() if shape})),
        alphas=alphas,
        modules=counts,
        trigger_words=header.metadata.get("modelspec.trigger_phrase"),
        facts={name: value for name, key in FACTS.items() if (value := header.metadata.get(key))},
        clients=verdicts(header, layout, base, len(modules), alphas),
    )


def _text_report(plain: dict[str, Any], header: Header, modules: Mapping[str, tuple[int, ...]]) -> Report:
    """A text LoRA: its settings lie in the file beside it, and its modules are counted by kind."""
    settings = settings_beside(header.path)
    told = settings or {}
    counts: dict[str, int] = {}
    for module in modules:
        leaf = module.removesuffix(".base_layer").rpartition(".")[2]
        counts[leaf] = counts.get(leaf, 0) + 1
    alpha, base = told.get("lora_alpha"), told.get("base_model_name_or_path")
    ranks = {int(told["r"])} if told.get("r") else {shape[0] for shape in modules.values() if shape}
    own = plain["config"] or {}
    return Report(
        **{**plain, "name": plain["name"] or own.get("output_name")},
        layout="peft",
        base="causal_lm",
        ranks=tuple(sorted(ranks)),
        alphas=(float(alpha),) if alpha is not None else (),
        modules=counts,
        facts={
            name: str(value)
            for name, value in (("base_model", base), ("task", told.get("task_type")))
            if value
        },
        clients=text_verdicts(header, settings),
    )


def config_yaml(report: Report) -> str:
    """The YAML that made the LoRA, complete and ready for ``--config``.

    Raises ProblemsError LS4050 where the file carries none.
    """
    from lora_scripts.config.load import dump_yaml
    from lora_scripts.config.schema import RunConfig

    if report.config is None:
        raise ProblemsError(Problem("LS4050", {"path": report.path}, Location(report.path)))
    values = {**report.config}
    values.setdefault("output_dir", f"./output/{report.name or Path(report.path).stem}")
    known = [name for name in RunConfig.model_fields if name in values]
    return dump_yaml({name: values[name] for name in [*known, *(n for n in values if n not in known)]})
