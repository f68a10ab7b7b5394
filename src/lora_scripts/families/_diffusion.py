"""What Stable Diffusion and its successors share: noise, targets, batches, prediction, pipeline.

A family derives from ``LatentDiffusion`` and states its sheet, its single-file layout and how it reads text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import _loading
from ._base import (
    Batch,
    Draw,
    ImageDescription,
    ImageModel,
    Item,
    PromptInputs,
    Sheet,
    Stage,
)
from ._lora_names import LoraNames
from ._signatures import signature
from ._single_file import Layout
from ._source import Source
from ._stages import PLAIN, StageOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lora_scripts.config.schema import RunConfig
    from lora_scripts.core.problems import Problem

LOGVAR_RANGE = (-30.0, 20.0)
"""Diffusers' ``DiagonalGaussianDistribution`` clamps the log-variance so; ours must sample the same way."""

LATENT_PARTS = ("latents", "noise", "timesteps", "mask", "loss_weight")
"""Entries of a batch that say what is to be denoised and what counts; the others say by what."""


def snr(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """Signal-to-noise ratio (B,), float64 on the CPU: ``abar / (1 - abar)``; zero where nothing is left.
    ``alphas_cumprod`` (T,): the share of the signal's variance after each step."""
    kept = alphas_cumprod.double().cpu()[timesteps.cpu()]
    return kept / (1 - kept)


class LatentDiffusion(LoraNames):
    """A family of U-Nets that denoise a VAE's latents; epsilon or v prediction on a DDPM schedule."""

    sheet: Sheet
    layouts: Mapping[str, Layout]
    scheduler: Mapping[str, Any]
    pipeline_class: str
    predictions: tuple[str, ...] = ("epsilon", "v_prediction")
    """What the predictor may have been trained to predict; the first where a base does not say."""
    pipeline_inputs: Mapping[str, str] = {"text": "prompt_embeds"}
    """What ``embed`` gives of a prompt -> keyword of the pipeline's call."""
    brought: tuple[str, ...] = ("tokenizer",)
    """Tokenizers that are the program's own."""
    ambiguous: bool = False
    """Whether a base that does not say may well be either."""

    # -- told by each family ------------------------------------------------------------------------------

    def tokenizers(self, source: Source) -> dict[str, Any]:
        """Tokenizer folder name -> tokenizer, from the source or, for a single file, the family's own."""
        raise LookupError(f"{type(self).__name__} names no tokenizers")

    def tokenize(self, model: ImageModel, captions: Sequence[str]) -> dict[str, Tensor]:
        """Token numbers (B, length) by tokenizer: ``ids`` of the first, ``ids_2`` of the second and so on."""
        from ._stages import token_ids

        return {
            "ids" if number == 0 else f"ids_{number + 1}": token_ids(model.tokenizers[name], captions)
            for number, name in enumerate(self.sheet.tokenizers)
        }

    def tokenizers_of(self, source: Source, places: Mapping[str, Source]) -> dict[str, Any]:
        """The tokenizers of a base whose components come from ``places``."""
        return self.tokenizers(source)

    def scheduler_of(self, configs: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        """The noise schedule of a base whose file does not hold one; ``configs``: of its components."""
        return self.scheduler

    def missing(self, places: Mapping[str, Source], configs: Mapping[str, Any]) -> list[Problem]:
        """What the base needs beside its components and has not."""
        return []

    def readers(self, model: ImageModel) -> tuple[str, ...]:
        """The components that read text."""
        return self.sheet.text_encoders

    def embed(self, model: ImageModel, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What ``tokenize`` gives -> the predictor's text inputs; differentiable, for trained encoders."""
        raise LookupError(f"{type(self).__name__} reads no text")

    # -- description and loading --------------------------------------------------------------------------

    def recognises(self, source: Source) -> bool:
        return signature(source.shapes) == self.sheet.name

    def describe(
        self, source: Source, *, components: Mapping[str, str] | None = None, prediction_type: str = "auto"
    ) -> ImageDescription:
        """What the base is, from configurations and headers.

        Raises ProblemsError: LS4010 a special-purpose U-Net, LS4011 a part is missing, LS4013 pickled
        weights, LS4015 an unknown component, LS4017 an unknown prediction type.
        """
        return _loading.describe(self, source, components, prediction_type)

    def load(
        self,
        source: Source,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        components: Mapping[str, str] | None = None,
        prediction_type: str = "auto",
        quantization: str = "none",
        later: bool = False,
    ) -> ImageModel:
        """The frozen base in ``dtype`` (default float32; the VAE always in float32), memory-mapped, offline.
        See ``ImageFamily``. Raises what ``describe`` raises, and LS4012 where weights do not fit."""
        asked = (device, dtype, components, prediction_type)
        return _loading.load(self, source, *asked, quantization=quantization, later=later)

    def configure(self, model: ImageModel, config: RunConfig) -> None:
        """Takes over what a configuration says about how the base is trained."""
        model.noise_offset = config.noise_offset
        model.clip_skip = config.clip_skip
        if config.zero_terminal_snr:
            self.rescale(model)

    def resolution(
        self, configs: Mapping[str, Mapping[str, Any]], source: Source, prediction_type: str
    ) -> int:
        """Side in pixels of the square that the base was trained on."""
        if source.kind == "file":
            return self.sheet.resolution
        size = configs[self.sheet.predictor].get("sample_size") or 0
        side = size if isinstance(size, int) else max(size)
        return side * self.factor(configs) or self.sheet.resolution

    def factor(self, configs: Mapping[str, Mapping[str, Any]]) -> int:
        """Pixels for one latent, along a side."""
        return int(2 ** (len(configs["vae"]["block_out_channels"]) - 1))

    def input_channels(self, configs: Mapping[str, Mapping[str, Any]]) -> int:
        """Channels that an ordinary predictor of this family takes: the VAE's latents and nothing else."""
        return int(configs["vae"]["latent_channels"])

    def tune(self, predictor: Any, device: torch.device, dtype: torch.dtype) -> None:
        """Chooses how the predictor computes on this device in this dtype; what it computes is the same."""
        from ._attention import choose_attention

        choose_attention(predictor, device, dtype)

    def largest_side(self, configs: Mapping[str, Mapping[str, Any]]) -> int:
        """Pixels that a side may have at most; 0 where nothing in the base ends."""
        return 0

    def size_multiple(self, configs: Mapping[str, Mapping[str, Any]]) -> int:
        """Pixels that width and height are multiples of, so that every level of the U-Net halves evenly."""
        return int(self.factor(configs) * 2 ** (len(configs[self.sheet.predictor]["block_out_channels"]) - 1))

    # -- stages -------------------------------------------------------------------------------------------

    def stages(self, model: ImageModel, asked: StageOptions = PLAIN) -> list[Stage]:
        """Latents, text and, where asked for, masks."""
        import torch

        from . import _stages

        dtype = asked.cache_dtype or torch.float32
        text = any(name in asked.trained for name in self.sheet.text_encoders)
        found = [
            _stages.latents_stage(model, dtype, asked.background, cached=not asked.crops),
            _stages.ids_stage(model, asked.caption_tokens)
            if text
            else _stages.text_stage(model, dtype, asked.caption_tokens),
        ]
        if asked.masks:
            found.append(_stages.mask_stage(self.latent_factor(model), cached=not asked.crops))
        return found

    def caption_cutter(
        self, source: Source, components: Mapping[str, str] | None = None
    ) -> Callable[[str, int], tuple[int, str]]:
        """Caption and limit -> how many tokens it has, and the words behind the limit."""
        from ._clip import cutter

        return cutter(source.path / "tokenizer" if source.kind == "folder" else None)

    def caption_counter(
        self, source: Source, components: Mapping[str, str] | None = None
    ) -> Callable[[str], int] | None:
        """All captions are filled up to the same length."""
        return None

    def prompts(self, model: ImageModel, texts: Sequence[str]) -> list[PromptInputs]:
        """Each text as keywords of the pipeline's call; the negative ones get ``negative_`` in front."""
        import torch

        with torch.no_grad():
            found = [self.embed(model, self.tokenize(model, [text])) for text in texts]
        return [{key: each[name] for name, key in self.pipeline_inputs.items()} for each in found]

    # -- the training step --------------------------------------------------------------------------------

    def schedule(self, config: Mapping[str, Any]) -> Any:
        """The noise schedule to train on (Diffusers' DDPM with the base's betas)."""
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(dict(config))

    def rescale(self, model: ImageModel) -> None:
        """Gives the model a noise schedule whose last step is noise alone: betas rescaled as in Lin et al.
        2023, algorithm 1 (arXiv:2305.08891)."""
        model.scheduler_config = {**model.scheduler_config, "rescale_betas_zero_snr": True}
        model.schedule = self.schedule(model.scheduler_config)

    def settle(self, model: ImageModel, prediction_type: str) -> None:
        """Decides what the base is taken to predict."""
        model.description = replace(
            model.description, prediction_type=prediction_type, prediction_settled=True
        )
        model.scheduler_config = {**model.scheduler_config, "prediction_type": prediction_type}
        model.schedule = self.schedule(model.scheduler_config)

    def draw_timestep(
        self, model: ImageModel, generator: torch.Generator, shape: Sequence[int]
    ) -> int | float:
        """A time step at random for latents of ``shape`` (C, h, w)."""
        import torch

        steps = model.schedule.config.num_train_timesteps
        return int(torch.randint(0, steps, (1,), generator=generator).item())

    def scale_latents(self, model: ImageModel, latents: Tensor) -> Tensor:
        """VAE latents as the predictor sees them: shifted and scaled by the VAE's own numbers."""
        config: Any = self.vae_config(model)
        return (latents - (config.get("shift_factor") or 0.0)) * config["scaling_factor"]

    def vae_config(self, model: ImageModel) -> Mapping[str, Any]:
        """The VAE's configuration, which stays known when the VAE has left memory."""
        config: Mapping[str, Any] = model.configs["vae"]
        return config

    def collate(self, model: ImageModel, items: Sequence[Item], draws: Sequence[Draw]) -> Batch:
        """Items of one size -> CPU batch: ``latents`` (B, C, h, w) sampled and scaled, ``noise``,
        ``timesteps`` (B,) and the text inputs. Each draw's generator yields latent sample, noise, time step,
        in this order, and then, with ``noise_offset``, one number for each channel that its whole noise is
        shifted by (N. Guttenberg 2023, "Diffusion with offset noise").
        """
        import torch

        latents, noises, timesteps = [], [], []
        for item, draw in zip(items, draws, strict=True):
            generator = torch.Generator("cpu").manual_seed(draw.seed)
            mean, logvar = item["latents"].float().chunk(2, dim=0)
            spread = torch.exp(0.5 * logvar.clamp(*LOGVAR_RANGE))
            latents.append(mean + spread * torch.randn(mean.shape, generator=generator))
            noises.append(torch.randn(mean.shape, generator=generator))
            drawn = self.draw_timestep(model, generator, mean.shape)
            timesteps.append(drawn if draw.timestep is None else draw.timestep)
            if model.noise_offset and draw.timestep is None:
                shift = torch.randn((len(mean), 1, 1), generator=generator)
                noises[-1] = noises[-1] + model.noise_offset * shift
        batch: Batch = {
            "latents": self.scale_latents(model, torch.stack(latents)),
            "noise": torch.stack(noises),
            "timesteps": torch.tensor(timesteps),
        }
        for name in sorted(set(items[0]) - {"latents"}):
            batch[name] = torch.stack([item[name] for item in items])
        return batch

    def noisy(self, model: ImageModel, batch: Batch) -> Tensor:
        """Latents with noise added for their time steps, float32 on the model's device."""
        noised: Tensor = model.schedule.add_noise(
            batch["latents"].to(model.device),
            batch["noise"].to(model.device),
            batch["timesteps"].to(model.device),
        )
        return noised

    def predict(self, model: ImageModel, batch: Batch) -> Tensor:
        """The predictor's output (B, C, h, w) in float32. Autocast, if any, is the caller's."""
        from . import _stages

        inputs = self.noisy(model, batch).to(model.dtype)
        steps = batch["timesteps"].to(model.device)
        given = {n: t.to(model.device) for n, t in batch.items() if n not in LATENT_PARTS}
        ids = {name: given.pop(name) for name in list(given) if name.startswith("ids")}
        text = {**given, **_stages.embedded(model, ids)} if ids else given
        return self.denoise(model, inputs, steps, text).float()

    def denoise(self, model: ImageModel, inputs: Tensor, steps: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """One call of the predictor."""
        output: Tensor = model.predictor(
            inputs, steps, encoder_hidden_states=text["text"].to(model.dtype), return_dict=False
        )[0]
        return output

    def target(self, model: ImageModel, batch: Batch) -> Tensor:
        """What ``predict`` should have said, float32: the noise, or v = alpha * noise - sigma * latents
        (Salimans and Ho 2022, arXiv:2202.00512)."""
        latents, noise = batch["latents"].to(model.device), batch["noise"].to(model.device)
        if model.description.prediction_type == "epsilon":
            wanted: Tensor = noise
        else:
            wanted = model.schedule.get_velocity(latents, noise, batch["timesteps"].to(model.device))
        return wanted

    def snr(self, model: ImageModel, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio (B,), float64 on the CPU, at a batch's time steps."""
        return snr(model.schedule.alphas_cumprod, timesteps)

    def time_weight(self, model: ImageModel, timesteps: Tensor) -> Tensor | None:
        """All time steps count alike, but for what the loss itself makes of them."""
        return None

    # -- use ----------------------------------------------------------------------------------------------

    def pipeline(self, model: ImageModel) -> Any:
        """Diffusers' own pipeline over the model's parts; absent ones are None."""
        import diffusers

        modules: dict[str, Any] = {name: model.modules.get(name) for name in self.sheet.components}
        pipe = getattr(diffusers, self.pipeline_class)(
            **modules,
            **{name: model.tokenizers.get(name) for name in self.sheet.tokenizers},
            scheduler=self.sampler(model),
            **self.pipeline_extras(),
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run_pipeline(self, pipe: Any, told: Mapping[str, Tensor], **settings: Any) -> Any:
        return pipe(**told, **settings)

    def decode(self, model: ImageModel, latents: Tensor, size: tuple[int, int] | None = None) -> list[Any]:
        """What the pipeline calls latents -> PIL pictures of ``size``, in the VAE's own precision whatever
        the pipeline's."""
        import torch
        from diffusers.image_processor import VaeImageProcessor

        vae: Any = model.modules["vae"]
        config = model.configs["vae"]
        plain = latents.to(next(vae.parameters()).dtype) / config["scaling_factor"]
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            pixels = vae.decode(plain + (config.get("shift_factor") or 0.0), return_dict=False)[0]
        pictures: list[Any] = VaeImageProcessor().postprocess(pixels, output_type="pil")
        return pictures

    def latent_factor(self, model: ImageModel) -> int:
        """Pixels for one latent, along a side, of a loaded model."""
        return self.factor(model.configs)

    def probe_text(self, model: ImageModel, generator: torch.Generator) -> dict[str, Tensor]:
        """Text for one test pass: token ids where the encoder is loaded, else random inputs."""
        import torch

        if all(name in model.modules for name in self.sheet.text_encoders):
            return {name: ids[0] for name, ids in self.tokenize(model, ["a city street at night"]).items()}
        width = int(model.configs[self.sheet.predictor]["cross_attention_dim"])
        return {"text": torch.randn((77, width), generator=generator)}

    def sampler(self, model: ImageModel) -> Any:
        """The solver that pictures are drawn with. It starts at the last step where that is noise alone."""
        from diffusers import DPMSolverMultistepScheduler

        spacing = (
            {"timestep_spacing": "trailing"} if model.scheduler_config.get("rescale_betas_zero_snr") else {}
        )
        return DPMSolverMultistepScheduler.from_config(model.scheduler_config, **spacing)

    def pipeline_extras(self) -> dict[str, Any]:
        return {}

    def set_gradient_checkpointing(self, model: ImageModel, on: bool) -> None:
        """Recomputes activations in the backward pass: slower, much less memory, equal values."""
        for name in (self.sheet.predictor, *self.sheet.text_encoders):
            module: Any = model.modules.get(name)
            if module is None:
                continue
            switch: Callable[..., object]
            if self.sheet.components[name].library == "diffusers":
                switch = module.enable_gradient_checkpointing if on else module.disable_gradient_checkpointing
            else:
                switch = (
                    module.activation_checkpointing_enable if on else module.activation_checkpointing_disable
                )
            switch()
