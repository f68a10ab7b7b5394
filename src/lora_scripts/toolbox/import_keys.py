"""Another trainer's training settings as keys of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_scripts.config.schema import DEFAULTS, OWN_RATE, OWN_SCHEDULE, RATES

from .import_notes import Given, pairs, short

OPTIMIZERS = {
    "adamw": "adamw",
    "adamw8bit": "adamw8bit",
    "pagedadamw8bit": "adamw8bit",
    "pagedadamw": "adamw",
    "pagedadamw32bit": "adamw",
    "adafactor": "adafactor",
    "prodigy": "prodigy",
    "adamwschedulefree": "schedulefree",
    "schedulefreewrapper": "schedulefree",
}
EXACT = ("adamw", "adamw8bit", "adafactor", "prodigy", "adamwschedulefree")
SCHEDULES = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "cosine_with_restarts": "cosine_with_restarts",
    "cosine_with_min_lr": "cosine",
    "polynomial": "polynomial",
    "inverse_sqrt": "inverse_sqrt",
    "warmup_stable_decay": "warmup_stable_decay",
}
SAME = {
    "min_snr_gamma": "min_snr_gamma",
    "noise_offset": "noise_offset",
    "prior_loss_weight": "prior_loss_weight",
    "huber_c": "huber_c",
    "lr_scheduler_power": "lr_power",
    "lr_scheduler_min_lr_ratio": "lr_min_ratio",
}
"""Numbers of theirs -> the key of ours that means the same."""
SWITCHES = {
    "zero_terminal_snr": "zero_terminal_snr",
    "debiased_estimation_loss": "debiased_estimation_loss",
    "gradient_checkpointing": "gradient_checkpointing",
}
COUNTS = {
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "lr_scheduler_num_cycles": "lr_num_cycles",
    "clip_skip": "clip_skip",
    "save_every_n_steps": "save_steps",
    "seed": "seed",
}
METHODS = ("networks.lora", "lycoris.kohya")
NO_WARMUP = ("constant", "adafactor")
"""Schedules of theirs that pass over a warm-up."""


def network(given: Given) -> dict[str, Any]:
    """Rank, alpha and what is adapted."""
    found: dict[str, Any] = {"lora_rank": given.whole("network_dim") or 4}
    options = pairs(given.take("network_args"))
    alpha = given.number("network_alpha")
    found["lora_alpha"] = 1 if alpha is None else alpha
    if alpha is None:
        given.change("import.alpha", rank=found["lora_rank"])
    if (dropout := given.number("network_dropout")) is not None:
        found["lora_dropout"] = dropout
        given.change("import.dropout")
    rank, strength = given.whole("conv_dim"), given.number("conv_alpha")
    kind = str(given.take("LoRA_type") or "")
    method = str(given.take("network_module") or METHODS[0])
    algorithm = options.pop("algo", "lora" if method == METHODS[0] else "locon").lower()
    plain = kind.lower() in ("", "standard", "kohya locon", "lycoris/locon") and algorithm in (
        "lora",
        "locon",
    )
    if not plain or method not in METHODS:
        given.change("import.method", name=kind or f"{method} {algorithm}")
    if kind.lower() in ("", "kohya locon", "lycoris/locon"):
        rank = int(options.pop("conv_dim", rank or 0)) or None
        strength = float(options.pop("conv_alpha", strength or 0)) or None
    elif kind.lower() == "standard":  # the form keeps numbers of methods that are not chosen
        rank = strength = None
    if rank:
        found |= {"conv_rank": rank, "conv_alpha": strength or 1}
        if not strength:
            given.change("import.conv_alpha", rank=rank)
    for name, ours in (("dora_wd", "use_dora"), ("rs_lora", "use_rslora")):
        if options.pop(name, "").lower() in ("true", "1"):
            found[ours] = True
    inner = float(options.pop("dropout", 0))
    if inner:
        found["lora_dropout"] = inner
        given.change("import.dropout")
    for name, value in options.items():
        given.lose(f"network_args {name}", value)
    if (path := given.take("network_weights", "lora_network_weights")) is not None:
        found["init_from"] = str(path)
    given.values.pop("dim_from_weights", None)
    return found


def rates(given: Given, gui: bool) -> dict[str, Any]:
    """Optimizer, rates and schedule."""
    name = str(
        given.take("optimizer_type", "optimizer")
        or ("AdamW8bit" if given.switch("use_8bit_adam") else "AdamW")
    )
    plain = name.rpartition(".")[2].lower()
    chosen = OPTIMIZERS.get(plain, "adamw")
    if plain not in EXACT:
        given.change("import.optimizer", name=name, ours=chosen)
    found: dict[str, Any] = {"optimizer": chosen}
    options = pairs(given.take("optimizer_args"))
    decay = options.pop("weight_decay", None)
    if decay is not None:
        found["weight_decay"] = float(decay)
    elif chosen in ("prodigy", "adafactor", "schedulefree"):
        found["weight_decay"] = 0.0
    for option, value in options.items():
        given.lose(f"optimizer_args {option}", value)
    found |= _learning(given, gui, chosen)
    found |= _schedule(given, chosen)
    return found


def _learning(given: Given, gui: bool, optimizer: str) -> dict[str, Any]:
    rate, unet, text = (given.number(n) for n in ("learning_rate", "unet_lr", "text_encoder_lr"))
    found: dict[str, Any] = {"learning_rate": unet or rate or (2e-6 if not gui else 1e-4)}
    if not (unet or rate):
        given.change("import.no_rate", rate=f"{found['learning_rate']:g}")
    unet_only = given.switch("network_train_unet_only") or (gui and bool(unet) and not text)
    if given.switch("network_train_text_encoder_only") or (gui and bool(text) and not unet):
        given.change("import.text_only")
    found["train_text_encoder"] = not unet_only
    if text and not unet_only and text != found["learning_rate"]:
        found["text_encoder_learning_rate"] = text
    lowest, highest = RATES[optimizer]
    for key in ("learning_rate", "text_encoder_learning_rate"):
        if key in found and not lowest <= found[key] <= highest:
            own = OWN_RATE.get(optimizer, DEFAULTS["image-generation"]["learning_rate"])
            given.change(
                "import.rate", name=key, given=f"{found[key]:g}", rate=f"{own:g}", optimizer=optimizer
            )
            found[key] = own
    return found


def _schedule(given: Given, optimizer: str) -> dict[str, Any]:
    name = str(given.take("lr_scheduler_type", "lr_scheduler") or "constant")
    chosen = SCHEDULES.get(name, "constant")
    if name not in SCHEDULES:
        given.change("import.schedule", name=name, ours=chosen)
    if optimizer in OWN_SCHEDULE and chosen != "constant":
        given.change("import.own_schedule", name=name, optimizer=optimizer)
        chosen = "constant"
    found: dict[str, Any] = {"lr_scheduler": chosen}
    steps = given.number("lr_warmup_steps")
    percent: float = given.number("lr_warmup") or 0.0
    total = given.values.get("max_train_steps")
    if steps and 0 < steps < 1:  # a share of all steps
        percent, steps = 100 * steps, None
    if name in NO_WARMUP:
        if steps or percent:
            given.change("import.no_warmup", name=name)
    elif steps:
        found["warmup_steps"] = round(steps)
    elif percent and total and float(total) > 0:
        share = round(float(total) * percent / 100)
        found["warmup_steps"] = share
        given.change("import.warmup", percent=f"{percent:g}", steps=share)
    elif percent:
        given.lose("lr_warmup", f"{percent:g} %")
    for option, value in pairs(given.take("lr_scheduler_args")).items():
        given.lose(f"lr_scheduler_args {option}", value)
    return found


def length(given: Given, gui: bool) -> dict[str, Any]:
    """How long is trained, and what is kept on the way."""
    epochs, steps = given.whole("max_train_epochs"), given.whole("max_train_steps")
    other = given.whole("epoch")
    found: dict[str, Any] = {}
    if epochs or (gui and not steps):
        found["epochs"] = epochs or other or 1
    else:
        found["max_steps"] = steps or 1600
        if not steps:
            given.change("import.no_steps")
    if (every := given.whole("save_every_n_epochs")) is not None and not given.values.get(
        "save_every_n_steps"
    ):
        given.change("import.save_epochs", every=every)
    return found


def rest(given: Given) -> dict[str, Any]:
    """What has one counterpart each."""
    found: dict[str, Any] = {}
    for theirs, ours in SAME.items():
        if (value := given.number(theirs)) is not None:
            found[ours] = value
    for theirs, ours in COUNTS.items():
        if (count := given.whole(theirs)) is not None:
            found[ours] = count
    for theirs, ours in SWITCHES.items():
        if given.switch(theirs):
            found[ours] = True
    if "seed" not in found:
        given.change("import.seed")
    if "debiased_estimation_loss" in found and "min_snr_gamma" in found:
        given.lose("debiased_estimation_loss", True)
        del found["debiased_estimation_loss"]
    kind = given.take("loss_type")
    if kind in ("huber", "smooth_l1"):
        found["loss_type"] = kind
    elif kind not in (None, "l2"):
        given.lose("loss_type", kind)
    schedule = given.take("huber_schedule")
    if "loss_type" in found and schedule in ("snr", "exponential", "constant"):
        found["huber_schedule"] = schedule
    if "loss_type" not in found:
        found.pop("huber_c", None)
    if "clip_skip" in found and not 1 <= found["clip_skip"] <= 24:
        given.lose("clip_skip", found.pop("clip_skip"))
    if (precision := given.take("mixed_precision")) in ("fp16", "bf16"):
        found["mixed_precision"] = precision
    elif precision is not None:
        given.lose("mixed_precision", precision)
    else:
        found["mixed_precision"] = "no"
    limit = given.values.pop("max_grad_norm", None)
    if limit is not None:
        found["max_grad_norm"] = float(limit) or 1e6
        if not float(limit):
            given.change("import.no_clipping")
    if (tokens := given.whole("max_token_length")) in (75, 150, 225):
        found["max_caption_tokens"] = tokens
    if given.switch("v_parameterization"):
        found["prediction_type"] = "v_prediction"
    if (path := given.take("vae")) is not None:
        found["components"] = {"vae": str(path)}
    for name in ("v2", "sdxl"):  # told from the weights
        given.values.pop(name, None)
    return found


def places(given: Given, stem: str) -> dict[str, Any]:
    """Base and folders."""
    found: dict[str, Any] = {}
    base = given.take("pretrained_model_name_or_path")
    found["base_model"] = str(base) if base else "./models/Stable-diffusion/v1-5-pruned.safetensors"
    if not base:
        given.change("import.unsaid", name="base_model", value=found["base_model"])
    name, folder = given.take("output_name"), given.take("output_dir")
    found["output_dir"] = str(folder) if folder else f"./output/{name or stem}"
    if name:
        found["output_name"] = str(name)
    ending = given.take("save_model_as")
    if ending not in (None, "safetensors"):
        given.change("import.safetensors", name=ending)
    precision = given.take("save_precision")
    if precision not in (None, "fp16"):
        given.change("import.save_precision", name=precision)
    return found


def batch(given: Given, already: int | None) -> dict[str, Any]:
    """The batch of all cards together, which is what a batch is here."""
    size = already or given.whole("train_batch_size") or 1
    given.values.pop("train_batch_size", None)
    cards = given.whole("num_processes") or 1
    if cards > 1:
        given.change("import.cards", cards=cards, size=size, whole=size * cards)
    return {"batch_size": size * cards}


def preview(given: Given, folder: Path) -> dict[str, Any]:
    """Sample prompts, from the settings themselves or the file that they name."""
    text = given.take("sample_prompts")
    every = given.whole("sample_every_n_steps")
    if (epochs := given.whole("sample_every_n_epochs")) is not None:
        given.lose("sample_every_n_epochs", epochs)
    if (name := given.take("sample_sampler")) is not None and text:
        given.lose("sample_sampler", name)
    if text is None:
        return {}
    lines = text if isinstance(text, list) else str(text).splitlines()
    if len(lines) == 1:
        path = next((p for p in (Path(lines[0]), folder / Path(lines[0]).name) if _is_file(p)), None)
        if path is not None:
            lines = path.read_text("utf-8-sig", errors="replace").splitlines()
        elif str(lines[0]).lower().endswith((".txt", ".toml", ".json")):
            given.lose("sample_prompts", lines[0])
            return {}
    wanted = [
        str(line).strip() for line in lines if str(line).strip() and not str(line).strip().startswith("#")
    ]
    found: dict[str, Any] = {}
    prompts = []
    for line in wanted:
        prompt, *options = line.split(" --")
        if not prompt.strip():
            continue
        prompts.append(prompt.strip())
        for option in options:
            _option(option, found, given)
    if not prompts:
        return {}
    found["prompts"] = prompts
    if every:
        found["every_steps"] = every
    return {"preview": found}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a prompt is no name of a file, or too long for one
        return False


OPTIONS = {
    "n": "negative_prompt",
    "d": "seed",
    "s": "steps",
    "l": "guidance_scale",
    "w": "width",
    "h": "height",
}


def _option(option: str, found: dict[str, Any], given: Given) -> None:
    """One option of a prompt line; previews share theirs, and the first that is told counts."""
    letter, _, value = option.strip().partition(" ")
    key = OPTIONS.get(letter)
    if key is None:
        given.lose(f"sample_prompts --{letter}", short(value))
        return
    try:
        read: Any = value if key == "negative_prompt" else float(value)
    except ValueError:
        given.lose(f"sample_prompts --{letter}", short(value))
        return
    read = read if key in ("negative_prompt", "guidance_scale") else round(read)
    if found.setdefault(key, read) != read:
        given.lose(f"sample_prompts --{letter}", short(value))
