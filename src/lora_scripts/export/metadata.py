"""The header of a LoRA file: what sd-scripts, WebUIs and ModelSpec readers look for, and our own record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lora_scripts.adapters.attach import Adapter
from lora_scripts.families._base import Model
from lora_scripts.families._source import Source

from .facts import ExportFacts
from .tensors_file import header_bytes, in_order, raw
from .text_facts import TextFacts

if TYPE_CHECKING:
    from torch import Tensor

SPEC_VERSION = "1.0.1"
SPEC_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
"""What ModelSpec knows that a base may predict."""
LEGACY_AT, LEGACY_LENGTH = 0x100000, 0x10000
"""Where the oldest WebUI hash reads, in bytes."""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def legacy_hash(source: Source) -> str | None:
    """The eight hex digits by which old WebUIs know a single-file base; None for a folder."""
    if source.kind != "file":
        return None
    with open(source.path, "rb") as handle:
        handle.seek(LEGACY_AT)
        return hashlib.sha256(handle.read(LEGACY_LENGTH)).hexdigest()[:8]


def network_metadata(model: Model, adapter: Adapter, facts: ExportFacts) -> dict[str, str]:
    """The ``ss_*`` entries. All values are text; "None" stands for what was not used, as sd-scripts
    writes."""
    config, described = facts.config, model.description
    sheet = model.family.sheet
    width, height = facts.resolution or (described.resolution, described.resolution)
    version = sheet.base_versions[described.prediction_type]
    rate = config.get("learning_rate")
    text = any(name in adapter.matched for name in sheet.text_encoders)
    text_rate = config.get("text_encoder_learning_rate") or rate
    batch, accumulation = config.get("batch_size", 1), config.get("gradient_accumulation_steps", 1)
    found: dict[str, Any] = {
        "ss_base_model_version": version,
        "ss_v2": "v2" in version,
        "ss_network_module": sheet.network_module,
        "ss_network_dim": adapter.spec.rank,
        "ss_network_alpha": adapter.spec.alpha,
        "ss_network_dropout": adapter.spec.dropout or None,
        "ss_network_args": _json(_network_args(adapter)),
        "ss_output_name": facts.name,
        "ss_sd_model_name": described.source.name,
        "ss_sd_model_hash": legacy_hash(described.source),
        "ss_learning_rate": rate,
        "ss_unet_lr": rate,
        "ss_text_encoder_lr": text_rate if text else None,
        "ss_optimizer": config.get("optimizer"),
        "ss_lr_scheduler": config.get("lr_scheduler"),
        "ss_lr_warmup_steps": config.get("warmup_steps", 0),
        "ss_num_train_images": facts.pictures,
        "ss_num_reg_images": 0,
        "ss_num_batches_per_epoch": facts.batches_per_epoch,
        "ss_num_epochs": facts.total_epochs,
        "ss_epoch": facts.epoch,
        "ss_steps": facts.step,
        "ss_max_train_steps": facts.total_steps,
        "ss_batch_size_per_device": batch,
        "ss_total_batch_size": batch * accumulation,
        "ss_gradient_accumulation_steps": accumulation,
        "ss_gradient_checkpointing": config.get("gradient_checkpointing", False),
        "ss_mixed_precision": facts.mixed_precision,
        "ss_max_grad_norm": config.get("max_grad_norm"),
        "ss_seed": config.get("seed"),
        "ss_resolution": f"{width},{height}",
        "ss_clip_skip": skipped if (skipped := config.get("clip_skip", 1)) > 1 else None,
        "ss_enable_bucket": True,
        "ss_bucket_info": _json({"buckets": dict(facts.buckets)}),
        "ss_tag_frequency": _json(facts.tag_frequency),
        "ss_dataset_dirs": _json(
            {name: {"n_repeats": 1, "img_count": facts.pictures} for name in facts.tag_frequency}
        ),
        "ss_training_comment": ", ".join(facts.trigger_words) or None,
    }
    found |= _losses(config)
    return {name: str(value) for name, value in found.items()}


def _losses(config: Mapping[str, Any]) -> dict[str, Any]:
    """How the error was counted, under sd-scripts' names; only what was not as usual."""
    used = {
        "ss_min_snr_gamma": config.get("min_snr_gamma"),
        "ss_debiased_estimation": config.get("debiased_estimation_loss"),
        "ss_noise_offset": config.get("noise_offset"),
        "ss_zero_terminal_snr": config.get("zero_terminal_snr"),
    }
    if config.get("loss_type", "l2") != "l2":
        used |= {f"ss_{key}": config.get(key) for key in ("loss_type", "huber_c", "huber_schedule")}
    return {name: value for name, value in used.items() if value}


def _network_args(adapter: Adapter) -> dict[str, Any]:
    """What ``ss_network_dim`` leaves open, as sd-scripts and LyCORIS call it."""
    spec = adapter.spec
    found: dict[str, Any] = {}
    if spec.conv_rank is not None:
        found |= {"conv_dim": str(spec.conv_rank), "conv_alpha": str(spec.conv_alpha or spec.conv_rank)}
    if spec.dora:
        found["dora_wd"] = "True"
    return found


def spec_metadata(model: Model, facts: ExportFacts, body_hash: str) -> dict[str, str]:
    """The ``modelspec.*`` entries. No date: equal runs give equal files."""
    described, sheet = model.description, model.family.sheet
    width, height = facts.resolution or (described.resolution, described.resolution)
    kind = "guided" if described.guided and "guided" in sheet.architectures else described.prediction_type
    found = {
        "sai_model_spec": SPEC_VERSION,
        "architecture": sheet.architectures[kind],
        "implementation": sheet.implementation,
        "title": facts.name,
        "resolution": f"{width}x{height}",
        "hash_sha256": f"0x{body_hash}",
    }
    if described.prediction_type in SPEC_PREDICTIONS:
        found["prediction_type"] = SPEC_PREDICTIONS[described.prediction_type]
    if facts.trigger_words:
        found["trigger_phrase"] = ", ".join(facts.trigger_words)
    return {f"modelspec.{name}": value for name, value in found.items()}


def own_metadata(model: Model, facts: ExportFacts | TextFacts) -> dict[str, str]:
    """What rebuilds the run: its configuration, and which data, base and versions it saw."""
    described = model.description
    return {
        "lora_scripts_config": _json(facts.kept_config()),
        "lora_scripts_data": _json(facts.data),
        "lora_scripts_versions": _json(facts.versions),
        "lora_scripts_base": _json({"family": described.family, **described.fingerprint}),
    }


def body_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[str, str]:
    """``sshs_model_hash`` (SHA-256 of all after the header) and ``sshs_legacy_hash`` (the first eight hex
    digits of 64 KiB at 1 MiB of the file that has only ``metadata`` in its header), as sd-scripts defines
    them."""
    body = hashlib.sha256()
    start = header_bytes(tensors, metadata)
    window, position = bytearray(), 0
    for number, chunk in enumerate([memoryview(start), *(raw(tensors[name]) for name in in_order(tensors))]):
        if number:
            body.update(chunk)
        first = max(LEGACY_AT - position, 0)
        last = LEGACY_AT + LEGACY_LENGTH - position
        if last > 0:
            window += chunk[first:last]
        position += len(chunk)
    return body.hexdigest(), hashlib.sha256(bytes(window)).hexdigest()[:8]


def metadata_of(
    tensors: Mapping[str, Tensor], model: Model, adapter: Adapter, facts: ExportFacts
) -> dict[str, str]:
    """The whole header for ``tensors``."""
    network = network_metadata(model, adapter, facts)
    body, legacy = body_hashes(tensors, network)
    hashes = {"sshs_model_hash": body, "sshs_legacy_hash": legacy}
    return {**network, **hashes, **spec_metadata(model, facts, body), **own_metadata(model, facts)}
