"""Flow-matching families that read with T5 and, of the caption as a whole, with CLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _t5
from ._base import ImageModel, PromptInputs
from ._clip import END
from ._clip import tokenizers as clip_tokenizers
from ._flow import FlowMatching
from ._source import Source

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class ToldByT5(FlowMatching):
    """``clip``: tokenizer of a CLIP encoder -> what fills up a caption."""

    uneven = "t5"
    apart = 1
    clip: Mapping[str, str] = {"tokenizer": END}

    def load_tokenizer(self, folder: Path) -> Any:
        return _t5.load_tokenizer(folder)

    def tokenizers_of(self, source: Source, places: Mapping[str, Source]) -> dict[str, Any]:
        return clip_tokenizers(source, self.clip) | super().tokenizers_of(source, places)

    def tokenize(
        self, model: ImageModel, captions: Sequence[str], *, padded: bool = False
    ) -> dict[str, Tensor]:
        """As every family's; T5's tokens without padding unless ``padded``, and then as the pipeline does."""
        from ._stages import token_ids

        found = {}
        for number, name in enumerate(self.sheet.tokenizers):
            if (tokenizer := model.tokenizers.get(name)) is None:
                continue
            key = "ids" if number == 0 else f"ids_{number + 1}"
            if name != self.reader_tokenizer:
                found[key] = token_ids(tokenizer, captions)
                continue
            padding = "max_length" if padded else "longest"
            settings = {"padding": padding, "truncation": True, "max_length": self.sheet.caption_tokens}
            found[key] = tokenizer(list(captions), return_tensors="pt", **settings).input_ids
        return found

    def read_t5(self, model: ImageModel, ids: Tensor) -> Tensor:
        """What T5 makes of token numbers, (B, tokens, width). Nothing is masked, as in the pipelines."""
        encoder: Any = model.modules[self.reader]
        found: Tensor = encoder(ids.to(model.device))[0]
        return found

    def joined(self, model: ImageModel, text: Mapping[str, Tensor]) -> Tensor:
        """The tokens that the predictor is given, (B, tokens, width)."""
        return text["t5"]

    def prompts(self, model: ImageModel, texts: Sequence[str]) -> list[PromptInputs]:
        """As the pipeline reads them: padded, so that pictures come out as other programs draw them."""
        import torch

        with torch.no_grad():
            read = [self.embed(model, self.tokenize(model, [text], padded=True)) for text in texts]
        return [{"prompt_embeds": self.joined(model, r), "pooled_prompt_embeds": r["pooled"]} for r in read]

    def probe_text(self, model: ImageModel, generator: torch.Generator) -> dict[str, Tensor]:
        import torch

        config = model.configs[self.sheet.predictor]
        width, pooled = int(config["joint_attention_dim"]), int(config["pooled_projection_dim"])
        return {
            "t5": torch.randn((8, width), generator=generator),
            "pooled": torch.randn((pooled,), generator=generator),
        }
