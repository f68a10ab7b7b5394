"""What flow-matching families share: noise, time steps and their shift, targets, text of uneven length.

A picture x and noise n lie on a straight line, z = (1 - sigma) x + sigma n, and the predictor says where the
line leads, n - x (Lipman et al. 2022, arXiv:2210.02747; Esser et al. 2024, arXiv:2403.03206, "SD3").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lora_scripts.core.problems import Location, Problem

from . import _tokenizer_folder as folders
from ._base import Batch, Draw, ImageModel, Item, Stage, Unsupported
from ._diffusion import LatentDiffusion
from ._original_blocks import OriginalBlocks
from ._single_file import Layout, convert_vae, vae_widths
from ._source import Source
from ._stages import PLAIN, StageOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lora_scripts.config.schema import RunConfig

STEPS = 1000
"""Time steps are counted in thousandths of sigma, as the predictors were trained."""
PATCH = 2
"""Latents along a side of what a predictor takes for one place."""
SUPPORTS: Mapping[str, bool | Unsupported] = {
    "text_encoder_training": Unsupported("model.unsupported.flow_text_encoder"),
    "gradient_checkpointing": True,
    "quantization": True,
    "clip_skip": Unsupported("model.unsupported.flow_clip_skip"),
    "use_dora": Unsupported("model.unsupported.flow_dora"),
    "inpainting": Unsupported("model.unsupported.inpainting"),
}
VAE: dict[str, Any] = {
    "act_fn": "silu",
    "in_channels": 3,
    "out_channels": 3,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "force_upcast": True,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
"""What single files do not say of the autoencoders with sixteen channels."""


def vae_layout(scale: float, shift: float) -> Layout:
    """Of an autoencoder whose latents are shifted and scaled so."""
    own = {**VAE, "scaling_factor": scale, "shift_factor": shift}
    return Layout(
        ("first_stage_model.", "vae.", ""),
        "decoder.conv_in.weight",
        lambda shapes: {**own, **vae_widths(shapes)},
        convert_vae,
    )


@dataclass(frozen=True)
class FlowRule:
    """How time steps are drawn, what they count, and what a distilled predictor is told.

    ``sampling``: ``uniform``, ``logit_normal`` with ``mean`` and ``spread``, or ``mode`` with ``heavy`` (SD3,
    section 3.1). ``shift``: a number, or ``resolution`` for the one that grows with the picture.
    ``weighting``: ``none``, ``sigma_sqrt`` or ``cosmap``. ``guidance``: the scale that it is told, if at all.
    """

    sampling: Literal["uniform", "logit_normal", "mode"] = "logit_normal"
    shift: float | Literal["resolution"] = 1.0
    mean: float = 0.0
    spread: float = 1.0
    heavy: float = 1.29
    weighting: Literal["none", "sigma_sqrt", "cosmap"] = "none"
    guidance: float = 1.0


def density(rule: FlowRule, generator: torch.Generator) -> float:
    """One draw between 0 and 1, before any shift."""
    import torch

    if rule.sampling == "logit_normal":
        drawn = torch.randn((1,), generator=generator).double().item()
        return 1 / (1 + math.exp(-(rule.mean + rule.spread * drawn)))
    u = torch.rand((1,), generator=generator).double().item()
    if rule.sampling == "uniform":
        return u
    return 1 - u - rule.heavy * (math.cos(math.pi / 2 * u) ** 2 - 1 + u)


def shifted(sigma: float, shift: float) -> float:
    """SD3's equation 23: more noise, the larger ``shift`` is; 1 changes nothing."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def resolution_shift(places: int, scheduler: Mapping[str, Any]) -> float:
    """The shift that suits a picture of so many places: its logarithm grows in a straight line from
    ``base_shift`` at ``base_image_seq_len`` places to ``max_shift`` at ``max_image_seq_len`` (FLUX.1)."""
    few, many = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    low, high = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
    height = low + (high - low) * (places - few) / (many - few)
    return float(height if scheduler.get("time_shift_type") == "linear" else math.exp(height))


def time_weight(rule: FlowRule, sigma: Tensor) -> Tensor:
    """What a time step's error counts, (B,): ``sigma_sqrt`` sigma^-2, ``cosmap`` 2 / (pi (1 - 2 sigma + 2
    sigma^2)) (SD3, section 3.1, as Diffusers computes them)."""
    import torch

    if rule.weighting == "sigma_sqrt":
        return sigma.clamp_min(1 / STEPS) ** -2
    if rule.weighting == "cosmap":
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))
    return torch.ones_like(sigma)


class FlowMatching(LatentDiffusion):
    """A transformer that leads from noise to a VAE's latents, told what to draw by a reader of sentences.

    ``reader``: the component that reads them; its tokenizer lies in a folder. ``uneven``: what ``embed``
    calls the rows that are as long as their captions. ``around``: tokens that the reader is given besides a
    caption's own. ``apart``: how many tokens take as much room in the cache as what is kept besides these
    rows. ``blocks``: the original's names.
    """

    predictions = ("flow",)
    reader: str
    uneven: str
    around: int = 1
    apart: int = 0
    blocks: OriginalBlocks

    # -- what the base is ---------------------------------------------------------------------------------

    @property
    def reader_tokenizer(self) -> str:
        return self.reader.replace("text_encoder", "tokenizer")

    @property
    def tokens_read(self) -> int:
        """How many of a caption's own tokens the reader reads."""
        return self.sheet.caption_tokens - self.around

    def readers(self, model: ImageModel) -> tuple[str, ...]:
        parts = self.sheet.components.items()
        return tuple(name for name, part in parts if part.library == "transformers" and name in model.configs)

    def size_multiple(self, configs: Mapping[str, Mapping[str, Any]]) -> int:
        return self.factor(configs) * PATCH

    def missing(self, places: Mapping[str, Source], configs: Mapping[str, Any]) -> list[Problem]:
        """LS4540 where the reader has no tokenizer."""
        if self.reader not in configs or self._tokenizer_folder(places):
            return []
        name = self.reader_tokenizer
        given = places.get(name)
        path = str((given or places[self.reader]).path)
        told = {"component": self.reader, "tokenizer": name, "path": path}
        return [Problem("LS4540", told, Location(path))]

    def _tokenizer_folder(self, places: Mapping[str, Source]) -> Path | None:
        given = places.get(self.reader_tokenizer)
        near = [places[n].path for n in (self.reader, self.sheet.predictor) if n in places]
        return folders.tokenizer_folder(self.reader_tokenizer, given.path if given else None, near)

    def load_tokenizer(self, folder: Path) -> Any:
        """The reader's."""
        raise LookupError(f"{type(self).__name__} names no tokenizer")

    def tokenizers_of(self, source: Source, places: Mapping[str, Source]) -> dict[str, Any]:
        folder = self._tokenizer_folder(places) if self.reader in places else None
        return {self.reader_tokenizer: self.load_tokenizer(folder)} if folder else {}

    def caption_cutter(
        self, source: Source, components: Mapping[str, str] | None = None
    ) -> Callable[[str, int], tuple[int, str]]:
        """By the reader, whatever limit is asked for."""
        return folders.cutter(self._folder_told(source, components), self.tokens_read)

    def _folder_told(self, source: Source, components: Mapping[str, str] | None) -> Path | None:
        """The tokenizer's folder, before any part of the base is looked at."""
        told = {name: Path(place).expanduser() for name, place in (components or {}).items()}
        near = [told[self.reader]] if self.reader in told else []
        given = told.get(self.reader_tokenizer)
        return folders.tokenizer_folder(self.reader_tokenizer, given, [*near, source.path])

    def caption_counter(
        self, source: Source, components: Mapping[str, str] | None = None
    ) -> Callable[[str], int]:
        """The reader's tokens, and what else is kept in their size."""
        left_out = (components or {}).get(self.reader) == "none"
        count = folders.counter(None if left_out else self._folder_told(source, components), self.around)
        return lambda caption: min(count(caption), self.sheet.caption_tokens) + self.apart

    # -- text ---------------------------------------------------------------------------------------------

    def stages(self, model: ImageModel, asked: StageOptions = PLAIN) -> list[Stage]:
        """As every family's. Of text only what the caption's own words are is kept: a caption's row has as
        many tokens as the caption."""
        return super().stages(model, replace(asked, trained=(), caption_tokens=PLAIN.caption_tokens))

    # -- the LoRA's names ---------------------------------------------------------------------------------

    def lora_groups(
        self, modules: Mapping[str, Mapping[str, tuple[int, ...]]]
    ) -> dict[str, list[tuple[str, str]]]:
        component = self.sheet.predictor
        prefix = self.sheet.components[component].kohya
        groups = self.blocks.groups(modules[component]).items()
        return {f"{prefix}_{n.replace('.', '_')}": [(component, m) for m in group] for n, group in groups}

    # -- the training step --------------------------------------------------------------------------------

    def schedule(self, config: Mapping[str, Any]) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        own = {key: value for key, value in config.items() if key != "prediction_type"}
        return FlowMatchEulerDiscreteScheduler.from_config(own)

    def sampler(self, model: ImageModel) -> Any:
        return self.schedule(model.scheduler_config)

    def published(self, scheduler: Mapping[str, Any]) -> FlowRule:
        """What the base's own noise schedule says: time steps around the middle, shifted as it shifts."""
        return FlowRule(
            shift="resolution"
            if scheduler.get("use_dynamic_shifting")
            else float(scheduler.get("shift", 1.0))
        )

    def configure(self, model: ImageModel, config: RunConfig) -> None:
        """LS4541 to LS4543 have been said before."""
        told: dict[str, Any] = {
            "sampling": config.timestep_sampling,
            "shift": config.discrete_flow_shift,
            "mean": config.logit_mean,
            "spread": config.logit_std,
            "heavy": config.mode_scale,
            "weighting": config.weighting_scheme,
            "guidance": config.guidance_scale,
        }
        said = {name: value for name, value in told.items() if value is not None}
        model.flow = replace(self.published(model.scheduler_config), **said)

    def draw_timestep(
        self, model: ImageModel, generator: torch.Generator, shape: Sequence[int]
    ) -> int | float:
        """Sigma in thousandths for a picture of ``shape`` (C, h, w)."""
        rule = self.rule(model)
        sigma = density(rule, generator)
        shift = rule.shift
        if shift == "resolution":
            shift = resolution_shift(math.prod(side // PATCH for side in shape[1:]), model.schedule.config)
        return STEPS * shifted(sigma, shift)

    def rule(self, model: ImageModel) -> FlowRule:
        return model.flow or self.published(model.scheduler_config)

    def collate(self, model: ImageModel, items: Sequence[Item], draws: Sequence[Draw]) -> Batch:
        """As every family's; ``timesteps`` are sigma in thousandths, float32. Uneven rows are filled up with
        zeros, and ``tokens`` (B,) says how long each is."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        rows = self.uneven
        if rows not in items[0]:
            batch = super().collate(model, items, draws)
        else:
            batch = super().collate(model, [{n: i[n] for n in i if n != rows} for i in items], draws)
            batch[rows] = pad_sequence([item[rows] for item in items], batch_first=True)
            batch["tokens"] = torch.tensor([len(item[rows]) for item in items])
        return batch | {"timesteps": batch["timesteps"].float()}

    def sigma(self, model: ImageModel, timesteps: Tensor) -> Tensor:
        return timesteps.float().to(model.device) / STEPS

    def noisy(self, model: ImageModel, batch: Batch) -> Tensor:
        sigma = self.sigma(model, batch["timesteps"]).view(-1, 1, 1, 1)
        latents, noise = batch["latents"].to(model.device), batch["noise"].to(model.device)
        noised: Tensor = (1 - sigma) * latents + sigma * noise
        return noised

    def target(self, model: ImageModel, batch: Batch) -> Tensor:
        """``noise - latents``, float32."""
        wanted: Tensor = batch["noise"].to(model.device) - batch["latents"].to(model.device)
        return wanted

    def snr(self, model: ImageModel, timesteps: Tensor) -> Tensor:
        sigma = timesteps.double().cpu() / STEPS
        return ((1 - sigma) / sigma).square()

    def time_weight(self, model: ImageModel, timesteps: Tensor) -> Tensor | None:
        rule = self.rule(model)
        return None if rule.weighting == "none" else time_weight(rule, timesteps.float() / STEPS)

    def denoise(self, model: ImageModel, inputs: Tensor, steps: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """Rows of text of one length go through the predictor together: nothing of the filling is seen, and
        a picture's result does not depend on its neighbours' captions."""
        import torch

        if "tokens" not in text:
            return self.step(model, inputs, steps, text)
        lengths = text["tokens"].tolist()
        order: list[int] = []
        found = []
        for length in sorted(set(lengths)):
            rows = [number for number, own in enumerate(lengths) if own == length]
            at = torch.tensor(rows, device=inputs.device)
            part = {name: tensor[at] for name, tensor in text.items() if name != "tokens"}
            part[self.uneven] = part[self.uneven][:, :length]
            found.append(self.step(model, inputs[at], steps[at], part))
            order += rows
        if len(found) == 1:
            return found[0]
        back = torch.tensor(order, device=inputs.device).argsort()
        return torch.cat(found)[back]

    def step(self, model: ImageModel, inputs: Tensor, steps: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """One call of the predictor for captions of one length."""
        raise LookupError(f"{type(self).__name__} calls no predictor")

    def tune(self, predictor: Any, device: torch.device, dtype: torch.dtype) -> None:
        """These transformers compute their attention in one way only."""
