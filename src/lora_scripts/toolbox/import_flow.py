"""sd-scripts' settings for flow-matching bases (SD3, FLUX) as keys of ours, and its trackers."""

from __future__ import annotations

from typing import Any

from .import_notes import Given

FLUX, SD3 = "FLUX", "Stable Diffusion 3"
BASES = {
    "flux": FLUX,
    "flux1_checkbox": FLUX,
    "networks.lora_flux": FLUX,
    "sd3": SD3,
    "sd3_checkbox": SD3,
    "networks.lora_sd3": SD3,
}
"""Switches of theirs, and values of ``network_module``, that tell the kind of base."""
ENCODERS = {
    FLUX: {"clip_l": "text_encoder", "t5xxl": "text_encoder_2", "ae": "vae"},
    SD3: {"clip_l": "text_encoder", "clip_g": "text_encoder_2", "t5xxl": "text_encoder_3"},
}
"""Files of theirs -> the component of ours that they replace."""
SHIFTS = {FLUX: 3.0, SD3: 1.0}
"""``discrete_flow_shift`` (FLUX) and ``training_shift`` (SD3) where nothing is said."""
GUIDANCE = 3.5
"""FLUX's ``guidance_scale`` where nothing is said."""
LOGIT_NORMAL = ("sigmoid", "shift", "flux_shift")
"""Kinds of ``timestep_sampling`` that draw ``sigmoid(sigmoid_scale * normal)``."""


def flow(given: Given, gui: bool) -> dict[str, Any]:
    """Nothing for other bases. Taken from ``flux_train_network.py``, ``sd3_train_network.py`` and what they
    call: with ``sigma`` the density follows ``weighting_scheme``, as Diffusers' examples have it."""
    title = _title(given)
    if title is None:
        return {}
    found = _sampling(given, title) | _loss(given)
    if title == FLUX:
        scale = given.number("guidance_scale")
        found["guidance_scale"] = GUIDANCE if scale is None else scale
        if scale is None:
            given.change("import.flow.default", name="guidance_scale", value=GUIDANCE)
    named = ENCODERS[title]
    parts = {ours: str(path) for theirs, ours in named.items() if (path := given.take(theirs)) is not None}
    if parts:
        found["components"] = parts
    encoders = [given.switch(name) for name in ("train_t5xxl", "train_clip_l", "train_clip_g")]
    if any(encoders) or not (given.values.get("network_train_unet_only") or gui):
        given.change("import.flow.encoders", title=title)
    found["train_text_encoder"] = False
    return found


def _title(given: Given) -> str | None:
    told = [title for name, title in BASES.items() if given.switch(name)]
    module = given.values.get("network_module")
    if module in BASES:
        told.append(BASES[module])
        given.values["network_module"] = "networks.lora"
    return told[0] if told else None


def _sampling(given: Given, title: str) -> dict[str, Any]:
    """How time steps are drawn, and how far they are shifted."""
    kind = str(given.take("timestep_sampling") or "sigma") if title == FLUX else "sigma"
    scheme = str(given.values.get("weighting_scheme") or "uniform")
    scale, shift = given.number("sigmoid_scale"), given.number("discrete_flow_shift", "training_shift")
    mean, spread, heavy = (given.number(name) for name in ("logit_mean", "logit_std", "mode_scale"))
    shift = SHIFTS[title] if shift is None else shift
    if kind in LOGIT_NORMAL:
        told: Any = {"sigmoid": 1.0, "shift": shift, "flux_shift": "resolution"}[kind]
        return {
            "timestep_sampling": "logit_normal", "logit_std": scale or 1.0, "discrete_flow_shift": told
        }  # fmt: skip
    if kind == "uniform":
        return {"timestep_sampling": "uniform", "discrete_flow_shift": 1.0}
    if kind != "sigma":
        given.lose("timestep_sampling", kind)
    if scheme == "logit_normal":
        shape = {"logit_mean": mean or 0.0, "logit_std": spread or 1.0}
    else:
        shape = {"mode_scale": 1.29 if heavy is None else heavy} if scheme == "mode" else {}
    density = scheme if shape else "uniform"
    return {"timestep_sampling": density, **shape, "discrete_flow_shift": shift}


def _loss(given: Given) -> dict[str, Any]:
    scheme = given.take("weighting_scheme")
    kind = given.take("model_prediction_type")
    if kind is not None and kind != "raw":
        given.change("import.flow.prediction", name=kind)
    for name in ("apply_t5_attn_mask", "apply_lg_attn_mask"):
        if given.switch(name):
            given.change("import.flow.attention", name=name)
    if (length := given.whole("t5xxl_max_token_length")) is not None:
        given.change("import.flow.tokens", length=length)
    return {"weighting_scheme": scheme} if scheme in ("sigma_sqrt", "cosmap") else {}


def trackers(given: Given) -> dict[str, Any]:
    """``log_with`` as ``logging.trackers``. A key is never written down: libraries find it themselves."""
    name = str(given.take("log_with") or "").lower()
    project, run = given.take("log_tracker_name"), given.take("wandb_run_name")
    if given.take("wandb_api_key") is not None:
        given.change("import.secret", name="wandb_api_key", variable="WANDB_API_KEY")
    if name not in ("wandb", "all"):
        return {}
    found: dict[str, Any] = {"trackers": ["wandb"]}
    if project is not None:
        found["tracker_project"] = str(project)
    if run is not None:
        found["tracker_run_name"] = str(run)
    return {"logging": found}
