"""Z-Image and Z-Image Turbo: a transformer over picture and caption in one sequence, told by Qwen3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._base import Component, ImageModel, PromptInputs, Sheet
from ._flow import SUPPORTS, FlowMatching, vae_layout
from ._original_blocks import OriginalBlocks
from ._single_file import Layout, Shapes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CODE = "https://github.com/Tongyi-MAI/Z-Image"
ATTENTION = r"layers\.\d+\.attention\.to_(?:q|k|v|out\.0)"
FEED_FORWARD = r"layers\.\d+\.feed_forward\.w[123]"
REFINERS = r"(?:noise|context)_refiner\.\d+\.(?:attention\.to_(?:q|k|v|out\.0)|feed_forward\.w[123])"

SHEET = Sheet(
    name="z_image",
    title="Z-Image",
    task="image-generation",
    required_fields=("image", "caption"),
    components={
        "transformer": Component("transformer", "diffusers", "ZImageTransformer2DModel", kohya="lora_unet"),
        "text_encoder": Component("text_encoder", "transformers", "Qwen3Model", storage="wide"),
        "vae": Component("vae", "diffusers", "AutoencoderKL", storage="float32"),
    },
    predictor="transformer",
    target_presets={
        "attention-mlp": {"transformer": (ATTENTION, FEED_FORWARD)},
        "attention": {"transformer": (ATTENTION,)},
        "blocks": {"transformer": (ATTENTION, FEED_FORWARD, REFINERS)},
    },
    default_preset="attention-mlp",
    base_versions={"flow": "z_image"},
    architectures={"flow": "Z-Image/lora"},
    implementation=CODE,
    resolution=1024,
    lora_layout="diffusers",
    guidance=4.0,
    sampler="Euler",
    trainable=r"(?:layers|(?:noise|context)_refiner)\..+",
    network_module="networks.lora_zimage",
    caption_tokens=512,
    supports=SUPPORTS,
)

BEFORE, AFTER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
"""What stands around a caption, as the chat template of the base's own reader has it."""
TOKENS_BEFORE, TOKENS_AFTER = 3, 5
BLOCK = {
    **{f"attention.to_{x}": f"attention.qkv/{n}" for n, x in enumerate("qkv")},
    **{f"attention.norm_{x}": f"attention.{x}_norm" for x in "qk"},
    "attention.to_out.0": "attention.out",
    **{name: name for name in (f"feed_forward.w{n}" for n in (1, 2, 3))},
    **{name: name for name in (f"{part}_norm{n}" for part in ("attention", "ffn") for n in (1, 2))},
    "adaLN_modulation.0": "adaLN_modulation.0",
}
"""A block's modules in Diffusers -> in the original."""
BLOCKS = OriginalBlocks(
    {
        "all_x_embedder.2-1": "x_embedder",
        "all_final_layer.2-1.linear": "final_layer.linear",
        "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
        **{
            name: name
            for name in ("t_embedder.mlp.0", "t_embedder.mlp.2", "cap_embedder.0", "cap_embedder.1")
        },
        **{
            f"{part}.#.{ours}": f"{part}.#.{theirs}"
            for part in ("layers", "noise_refiner", "context_refiner")
            for ours, theirs in BLOCK.items()
        },
    },
    plain={"x_pad_token": "x_pad_token", "cap_pad_token": "cap_pad_token"},
)
ORIGINAL = "x_embedder."
"""What a name starts with that is there under the original names alone."""
MARKERS = ("cap_pad_token",)
QWEN: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000},
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
"""What the shapes of Qwen3 do not say."""


def transformer_config(shapes: Shapes) -> dict[str, Any]:
    """What the shapes of a transformer say, under either kind of names (without prefix)."""
    shapes = BLOCKS.original_shapes(shapes, ORIGINAL)
    width, squares = shapes["x_embedder.weight"]
    (head,) = shapes["layers.0.attention.q_norm.weight"]
    numbers = {
        start: {name.split(".")[1] for name in shapes if name.startswith(start)}
        for start in ("layers.", "noise_refiner.")
    }
    return {
        "in_channels": squares // 4,
        "dim": width,
        "n_layers": len(numbers["layers."]),
        "n_refiner_layers": len(numbers["noise_refiner."]),
        "n_heads": width // head,
        "n_kv_heads": width // head,
        "cap_feat_dim": shapes["cap_embedder.1.weight"][1],
        "axes_dims": [head // 4, head * 3 // 8, head * 3 // 8],
        "axes_lens": [1536, 512, 512],
    }


def convert_transformer(state: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return BLOCKS.convert(state, int(config["dim"]), ORIGINAL)


def reader_config(shapes: Shapes) -> dict[str, Any]:
    """Qwen3's configuration from its shapes, which may lack the ``model.`` in front."""
    own = {name.removeprefix("model."): shape for name, shape in shapes.items()}
    words, width = own["embed_tokens.weight"]
    (head,) = own["layers.0.self_attn.q_norm.weight"]
    return {
        **QWEN,
        "vocab_size": words,
        "hidden_size": width,
        "head_dim": head,
        "num_hidden_layers": len({name.split(".")[1] for name in own if name.startswith("layers.")}),
        "num_attention_heads": own["layers.0.self_attn.q_proj.weight"][0] // head,
        "num_key_value_heads": own["layers.0.self_attn.k_proj.weight"][0] // head,
        "intermediate_size": own["layers.0.mlp.gate_proj.weight"][0],
    }


def convert_reader(state: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


class ZImage(FlowMatching):
    sheet = SHEET
    pipeline_class = "ZImagePipeline"
    blocks = BLOCKS
    reader = "text_encoder"
    uneven = "text"
    around = TOKENS_BEFORE + TOKENS_AFTER
    brought = ()
    scheduler: Mapping[str, Any] = {"num_train_timesteps": 1000, "shift": 3.0}
    layouts: Mapping[str, Layout] = {
        "transformer": Layout(
            ("model.diffusion_model.", ""), MARKERS, transformer_config, convert_transformer
        ),
        "text_encoder": Layout(
            ("text_encoders.qwen3_4b.transformer.", "text_encoder.", ""),
            "layers.0.self_attn.q_norm.weight",
            reader_config,
            convert_reader,
        ),
        "vae": vae_layout(0.3611, 0.1159),
    }

    @property
    def tokens_read(self) -> int:
        """A caption that is too long pushes out what stands behind it first."""
        return self.sheet.caption_tokens - TOKENS_BEFORE

    def largest_side(self, configs: Mapping[str, Mapping[str, Any]]) -> int:
        return int(min(configs["transformer"]["axes_lens"][1:])) * self.size_multiple(configs)

    def load_tokenizer(self, folder: Path) -> Any:
        from transformers import Qwen2Tokenizer

        return Qwen2Tokenizer.from_pretrained(str(folder), local_files_only=True)

    def tokenize(self, model: ImageModel, captions: Sequence[str]) -> dict[str, Tensor]:
        """``ids`` (B, tokens): captions as a user's words that an answer follows on. One at a time: nothing
        is filled up."""
        settings = {"truncation": True, "max_length": self.sheet.caption_tokens, "return_tensors": "pt"}
        told = [f"{BEFORE}{caption}{AFTER}" for caption in captions]
        return {"ids": model.tokenizer(told, **settings).input_ids}

    def embed(self, model: ImageModel, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``text`` (B, tokens, width): what the reader's last layer is given."""
        encoder: Any = model.modules["text_encoder"]
        read = encoder(ids["ids"].to(model.device), output_hidden_states=True, use_cache=False)
        return {"text": read.hidden_states[-2]}

    def prompts(self, model: ImageModel, texts: Sequence[str]) -> list[PromptInputs]:
        import torch

        with torch.no_grad():
            read = [self.embed(model, self.tokenize(model, [text])) for text in texts]
        return [{"prompt_embeds": found["text"]} for found in read]

    def run_pipeline(self, pipe: Any, told: Mapping[str, Tensor], **settings: Any) -> Any:
        """The pipeline takes rows of their own lengths, as lists."""
        return pipe(**{name: list(rows) for name, rows in told.items()}, **settings)

    def probe_text(self, model: ImageModel, generator: torch.Generator) -> dict[str, Tensor]:
        import torch

        width = int(model.configs["transformer"]["cap_feat_dim"])
        return {"text": torch.randn((8, width), generator=generator)}

    def step(self, model: ImageModel, inputs: Tensor, steps: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """The predictor counts time from noise to picture, and says which way the picture lies."""
        import torch

        output: list[Tensor] = model.predictor(
            list(inputs.unsqueeze(2)),
            1 - steps / model.schedule.config.num_train_timesteps,
            list(text["text"].to(model.dtype)),
            return_dict=False,
        )[0]
        return -torch.stack(output).squeeze(2)


FAMILY = ZImage()
