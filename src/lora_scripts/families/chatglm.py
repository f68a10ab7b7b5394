"""ChatGLM2 and ChatGLM3, and others of their architecture, from their original files: the native GLM classes
of Transformers compute them, and no code that comes with the weights is run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lora_scripts.core.catalogue import say
from lora_scripts.core.problems import Location, Problem, ProblemsError

from . import _chatglm_layout as layout
from . import _chatglm_tokenizer as tokenizers
from ._causal import CausalFamily, causal_sheet
from ._header import PICKLES, convert_command
from ._source import Source

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ._chatglm_chat import Row

SHEET = causal_sheet("chatglm", "ChatGLM2, ChatGLM3 and CodeGeeX2 in their original files")


@lru_cache
def native_classes() -> tuple[Any, Any]:
    """(configuration, model): GLM's own under names of ours, so that Transformers' loader translates these
    files, while GLM-4 is loaded and saved as ever."""
    from transformers import AutoModelForCausalLM, GlmConfig, GlmForCausalLM
    from transformers.conversion_mapping import register_checkpoint_conversion_mapping

    class ChatGLMConfig(GlmConfig):
        pass

    class ChatGLMModel(GlmForCausalLM):
        config_class = ChatGLMConfig
        _keys_to_ignore_on_load_unexpected = [layout.UNUSED]  # noqa: RUF012

    register_checkpoint_conversion_mapping("ChatGLMModel", layout.conversions(), overwrite=True)
    AutoModelForCausalLM.register(ChatGLMConfig, ChatGLMModel, exist_ok=True)
    return ChatGLMConfig, ChatGLMModel


class ChatGLM(CausalFamily):
    def recognises(self, source: Source) -> bool:
        """Every model that calls itself so; for those that cannot be trained, ``describe`` says why."""
        return source.kind == "transformers" and source.config.get("model_type") == "chatglm"

    def generation(self, source: Source) -> int | None:
        """2 or 3, None where nothing tells."""
        return layout.generation(source.given, source.path, source.config)

    def config(self, source: Source) -> Any:
        """A ``GlmConfig``. Raises ProblemsError: LS4013 pickles only, LS4103 no weights, LS4150 to LS4153 a
        model that only goes by the name, LS4155, LS4156 weights that do not fit."""
        settings = layout.native_settings(source.config, self.generation(source), source.path)
        if not source.headers:
            names = [path.name.removesuffix(".index.json") for path in source.path.iterdir()]
            pickled = any(name.endswith(PICKLES) for name in names)
            params = {"component": "model", "path": str(source.path)}
            where = Location(str(source.path))
            if pickled:
                told = params | {"command": convert_command(source.path)}
                raise ProblemsError(Problem("LS4013", told, where))
            raise ProblemsError(Problem("LS4103", params, where))
        layout.check_weights(source.shapes, settings, source.path)
        made, _ = native_classes()
        return made(**settings)

    def tokenizer(self, source: Source) -> Any:
        """Rebuilt from ``tokenizer.model``; one that lies beside an exported LoRA is a common one.

        Raises ProblemsError LS4107, LS4150 to LS4154.
        """
        if not self.recognises(source):
            return super().tokenizer(source)
        layout.refuse(source.config, source.path)
        told = {**layout.DEFAULTS, **source.config}
        return tokenizers.load(source.path, self.generation(source), context=int(told["seq_length"]))

    def load_module(
        self,
        source: Source,
        config: Any,
        *,
        device: torch.device,
        dtype: torch.dtype,
        quantization: str,
        attention: str,
    ) -> nn.Module:
        """As every causal model, a plain GLM from then on, which is saved under native names; generating
        stops at </s> and, of ChatGLM3, where another role speaks."""
        from transformers import GlmConfig, GlmForCausalLM

        module: Any = super().load_module(
            source, config, device=device, dtype=dtype, quantization=quantization, attention=attention
        )
        module.__class__, module.config.__class__ = GlmForCausalLM, GlmConfig
        module._weight_conversions = None
        module.generation_config.eos_token_id = self.stops(source)
        module.generation_config.pad_token_id = config.pad_token_id
        found: nn.Module = module
        return found

    def stops(self, source: Source) -> list[int]:
        """Ids of the tokens that end an answer."""
        words = self.tokenizer(source).words
        roles = ("<|user|>", "<|observation|>") if self.generation(source) == 3 else ()
        return [words.end, *(words.ids[role] for role in roles)]

    def encode_conversation(
        self, tokenizer: Any, turns: Iterable[Any], tools: Sequence[Any] = (), *, prompt: bool = False
    ) -> list[Row] | None:
        """See ``_chatglm_chat.encode``. ProblemsError LS4155, LS4158."""
        rows: list[Row] = tokenizer.encode_conversation(turns, tools, prompt=prompt)
        return rows

    def verify(self, tokenizer: Any, texts: Iterable[str]) -> Problem | None:
        """A warning where the quick tokenizer splits one of ``texts`` otherwise than SentencePiece."""
        different = tokenizer.verify(texts)
        if different is None:
            return None
        return Problem("LS4157", {"text": repr(different[:80])}, severity="warning")

    def how_to_use(self, base: str, name: str, rank: int) -> list[str]:
        """Lines of Markdown for the model card: an adapter of the native classes fits programs that run the
        original files only after translation."""
        original = f"{name}-original"
        return [
            say("chatglm.use.talk"),
            "",
            "```",
            f"lora-scripts chat --base {base} --lora .",
            "```",
            "",
            say("chatglm.use.merged"),
            "",
            "```",
            f"lora-scripts merge --base {base} --lora . --output {name}-merged",
            f"vllm serve ./{name}-merged",
            "```",
            "",
            say("chatglm.use.original", rank=3 * rank),
            "",
            "```",
            f"lora-scripts export --to original --base {base} --lora . --output {original}",
            f"vllm serve {base} --trust-remote-code --tokenizer . --enable-lora"
            f" --max-lora-rank {_allowed(3 * rank)} --lora-modules {name}=./{original}",
            "```",
        ]

    def to_original_layout(
        self, state: Mapping[str, Tensor], settings: Mapping[str, Any], config: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and ``adapter_config.json`` of a LoRA, for programs that compute the original's modules.

        ``state`` and ``settings``: as exported; ``config``: the base's ``config.json``. Raises ValueError for
        anything but a plain LoRA of one rank.
        """
        found = layout.to_original_layout(state, config)
        return found, layout.adapter_settings(settings, found)


def _allowed(rank: int) -> int:
    """The least ``--max-lora-rank`` of vLLM that takes ``rank``."""
    return next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)


FAMILY = ChatGLM(SHEET)
