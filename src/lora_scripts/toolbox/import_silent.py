"""Settings of other trainers that an import need not speak of."""

from __future__ import annotations

from typing import Any

from .import_notes import Given

OURS_DECIDES = (
    "xformers", "sdpa", "mem_eff_attn", "mem_eff_save", "lowram", "lowvram", "highvram", "no_half_vae",
    "sdxl_no_half_vae", "cache_latents", "cache_latents_to_disk", "cache_info", "cache_text_encoder_outputs",
    "cache_text_encoder_outputs_to_disk", "sdxl_cache_text_encoder_outputs", "vae_batch_size",
    "max_data_loader_n_workers", "persistent_data_loader_workers", "skip_cache_check", "num_machines",
    "num_cpu_threads_per_process", "main_process_port", "multi_gpu", "gpu_ids", "dynamo_backend",
    "cpu_offload_checkpointing", "bucket_reso_steps", "min_bucket_reso", "max_bucket_reso",
    "bucket_no_upscale", "enable_bucket", "save_state", "save_state_on_train_end", "machine_rank",
)  # fmt: skip
"""How fast and in how much memory something runs: settled by this project itself."""
WATCHES_ONLY = (
    "logging_dir", "log_prefix", "log_config", "log_tracker_config",
    "console_log_level", "console_log_simple", "training_comment", "no_metadata",
    "metadata_title", "metadata_author", "metadata_description", "metadata_license", "metadata_tags",
    "model_list", "save_as_bool", "save_last_n_epochs", "save_last_n_steps", "save_last_n_epochs_state",
    "save_last_n_steps_state", "sample_sampler", "sample_every_n_steps", "enable_wildcard",
)  # fmt: skip
SECRETS = ("wandb_api_key", "huggingface_token")
"""Never to be printed."""
FORM = {
    "LyCORIS_preset": "full", "factor": -1, "unit": 1, "constrain": 0, "conv_block_dims": "",
    "noise_offset_type": "Original", "multires_noise_discount": 0.3, "min_timestep": 0, "max_timestep": 1000,
    "discrete_flow_shift": 3.0, "guidance_scale": 3.5, "timestep_sampling": "sigma", "sigmoid_scale": 1,
    "model_prediction_type": "sigma_scaled", "logit_mean": 0, "logit_std": 1, "mode_scale": 1.29,
    "weighting_scheme": "logit_normal", "dynamo_mode": "default", "t5xxl_max_token_length": 512,
    "train_blocks": "all", "train_double_block_indices": "all", "train_single_block_indices": "all",
    "huber_scale": 1, "caption_extension": ".txt", "xformers": "xformers", "prior_loss_weight": 1,
}  # fmt: skip
"""What kohya_ss' form writes for everybody: name -> the value that means nothing was chosen."""


def drop_silent(given: Given, gui: bool) -> None:
    """Takes all that need not be told out of ``given``."""
    for name in (*OURS_DECIDES, *WATCHES_ONLY, *SECRETS):
        given.values.pop(name, None)
    for name, nothing in FORM.items():
        if gui and name in given.values and _same(given.values[name], nothing):
            del given.values[name]


def _same(value: Any, nothing: Any) -> bool:
    if isinstance(nothing, str) or isinstance(value, bool):
        return str(value) == str(nothing)
    try:
        return float(value) == float(nothing)
    except (TypeError, ValueError):
        return False
