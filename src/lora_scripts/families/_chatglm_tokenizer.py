"""The tokenizer of ChatGLM2 and ChatGLM3, rebuilt from its SentencePiece model without remote code.

Where the model's rules allow it becomes a fast tokenizer with offsets, else SentencePiece itself does the
work behind the same interface. Conversations are always encoded by SentencePiece.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.catalogue import say
from lora_scripts.core.problems import Location, Problem, ProblemsError

from ._chatglm_chat import SPECIALS, START, TEMPLATES, Row, Words, encode

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.model"
BPE = 2
"""``trainer_spec.model_type`` of a byte-pair model in a SentencePiece file."""


def _stop(path: Path, reason: str) -> ProblemsError:
    return ProblemsError(Problem("LS4154", {"path": str(path), "reason": reason}, Location(str(path))))


@lru_cache(maxsize=4)
def _read(path: Path, stamp: int) -> tuple[Any, Any]:
    from google.protobuf.message import DecodeError
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    content = path.read_bytes()
    try:
        generated: Any = sentencepiece_model_pb2  # protobuf makes its classes when it is imported
        proto = generated.ModelProto.FromString(content)
        return SentencePieceProcessor(model_proto=content), proto
    except (DecodeError, RuntimeError, ValueError, TypeError) as error:
        raise _stop(path, str(error) or type(error).__name__) from error


def read(path: Path) -> tuple[Any, Any]:
    """The SentencePiece processor of ``path`` and its description (a ``ModelProto``).

    Raises ProblemsError LS4154 where the file is missing or no SentencePiece model.
    """
    if not path.is_file():
        raise _stop(path, say("chatglm.no_file"))
    return _read(path, path.stat().st_mtime_ns)


def can_be_fast(proto: Any) -> bool:
    """Whether the ``tokenizers`` library can do exactly what this SentencePiece model does: byte pairs, text
    taken as it is, and no pieces with rules of their own."""
    spec = proto.normalizer_spec
    kinds = {piece.type for piece in proto.pieces}
    return (
        proto.trainer_spec.model_type == BPE
        and not proto.trainer_spec.treat_whitespace_as_suffix
        and not spec.precompiled_charsmap
        and spec.escape_whitespaces
        and not kinds & {proto.SentencePiece.USER_DEFINED, proto.SentencePiece.UNUSED}
    )


def merges(proto: Any) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, best score first: the order in which SentencePiece
    joins them (Sennrich et al. 2016, with scores in place of ranks)."""
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == proto.SentencePiece.NORMAL}
    found = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                found.append((-score, cut, left, right))
    return [(left, right) for _, _, left, right in sorted(found)]


def fast(proto: Any) -> Tokenizer:
    """A ``tokenizers`` tokenizer that splits text as the SentencePiece model does, special tokens added."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors

    spec, unknown = proto.normalizer_spec, proto.trainer_spec.unk_piece
    model = models.BPE(
        vocab={piece.piece: number for number, piece in enumerate(proto.pieces)},
        merges=merges(proto),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )
    made = Tokenizer(model)
    steps: list[Any] = []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +|[ ▁]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    ending = [decoders.Strip(" ", 1, 0)] if spec.add_dummy_prefix else []
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *ending]
    )
    trained = proto.trainer_spec
    controls = [trained.unk_piece, trained.bos_piece, trained.eos_piece]
    made.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in (*controls, *SPECIALS)])
    made.post_processor = processors.TemplateProcessing(
        single=f"{START[0]} {START[1]} $A",
        pair=f"{START[0]} {START[1]} $A $B",
        special_tokens=[(token, made.token_to_id(token)) for token in START],
    )
    return made


class Conversing:
    """What both kinds of tokenizer add to their library's class. ``generation``: 2 or 3, None where the base
    does not say, then conversations are refused (LS4155)."""

    generation: int | None
    vocab_path: Path

    @cached_property
    def words(self) -> Words:
        processor, _ = read(self.vocab_path)
        size = processor.get_piece_size()
        ids = {token: size + place for place, token in enumerate(SPECIALS)}
        return Words(processor.encode, ids, processor.eos_id())

    def encode_conversation(
        self, turns: Iterable[Any], tools: Sequence[Any] = (), *, prompt: bool = False
    ) -> list[Row]:
        """Rows of (ids, whether each carries loss); see ``_chatglm_chat.encode``.

        Raises ProblemsError LS4155, LS4158.
        """
        if self.generation is None:
            raise ProblemsError(Problem("LS4155", {"path": str(self.vocab_path.parent)}))
        return encode(self.generation, self.words, turns, tools, prompt=prompt)

    def save_pretrained(self, save_directory: Any, *args: Any, **options: Any) -> Any:
        """Writes what ``plain`` gives, which Transformers loads as its own."""
        tokenizer: Any = self
        return tokenizer.plain().save_pretrained(save_directory, *args, **options)

    def verify(self, texts: Iterable[str]) -> str | None:
        """The first text that this tokenizer splits otherwise than SentencePiece, or None."""
        tokenizer: Any = self
        for text in texts:
            if tokenizer(text, add_special_tokens=False)["input_ids"] != self.words.encode(text):
                return text
        return None

    def apply_chat_template(self, conversation: Any, tools: Any = None, *args: Any, **options: Any) -> Any:
        """As every tokenizer's, with this family's own encoding where ids are asked for: control tokens by
        id, each segment alone. Another template, or text, goes the library's way."""
        parent: Any = super()
        other = options.get("chat_template") is not None or options.get("continue_final_message")
        if args or other or not options.get("tokenize", True) or self.generation is None:
            words = {**(options.pop("tokenizer_kwargs", None) or {}), "split_special_tokens": False}
            return parent.apply_chat_template(conversation, tools, *args, tokenizer_kwargs=words, **options)
        many = bool(conversation) and isinstance(conversation[0], list | tuple)
        prompt = bool(options.get("add_generation_prompt"))
        rows = [
            self.encode_conversation(turns, tools or (), prompt=prompt)[-1]
            for turns in (conversation if many else [conversation])
        ]
        return self._as_asked(rows, many, options)

    def _as_asked(self, rows: list[Row], many: bool, options: dict[str, Any]) -> Any:
        limit = options.get("max_length") if options.get("truncation") else None
        table: dict[str, Any] = {"input_ids": [ids[:limit] for ids, _ in rows]}
        table["attention_mask"] = [[1] * len(ids) for ids in table["input_ids"]]
        if options.get("return_assistant_tokens_mask"):
            table["assistant_masks"] = [[int(t) for t in targets[:limit]] for _, targets in rows]
        tensors = options.get("return_tensors")
        if not many and tensors is None:
            table = {name: values[0] for name, values in table.items()}
        tokenizer: Any = self
        found = tokenizer.pad(table, padding=options.get("padding") or False, return_tensors=tensors)
        return found if options.get("return_dict", True) else found["input_ids"]


@lru_cache
def _classes() -> tuple[type, type]:
    """The fast and the slow class: made when first needed, so that nobody else pays for their library."""
    from transformers import PreTrainedTokenizerFast
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    class ChatGLMTokenizerFast(Conversing, PreTrainedTokenizerFast):
        def plain(self) -> Any:
            """The same as a class of Transformers, for templates and programs of others: special tokens that
            a text spells out count in it."""
            return PreTrainedTokenizerFast(
                tokenizer_object=self.backend_tokenizer, **_settings(self.generation), **_names(self)
            )

    class ChatGLMTokenizerSlow(Conversing, SentencePieceBackend):
        def tokenize(
            self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
        ) -> list[str]:
            """The pieces of SentencePiece; special tokens in text stay text."""
            pieces: list[str] = self.sp_model.encode(text, out_type=str)
            return pieces

        def convert_tokens_to_string(self, tokens: list[str]) -> str:
            return self.sp_model.decode_pieces(tokens)

        def build_inputs_with_special_tokens(
            self, token_ids_0: list[int], token_ids_1: list[int] | None = None
        ) -> list[int]:
            start: Any = self.convert_tokens_to_ids(list(START))
            return [*start, *token_ids_0, *(token_ids_1 or [])]

        def plain(self) -> Any:
            """As the fast one's."""
            made = SentencePieceBackend(
                vocab_file=str(self.vocab_path), **_settings(self.generation), **_names(self)
            )
            made.add_special_tokens({"additional_special_tokens": _added()})
            return made

    return ChatGLMTokenizerFast, ChatGLMTokenizerSlow


def _added() -> list[Any]:
    from tokenizers import AddedToken

    return [AddedToken(token, normalized=False, special=True) for token in SPECIALS]


def _settings(generation: int | None) -> dict[str, Any]:
    return {
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATES.get(generation or 0),
    }


def _names(tokenizer: Any) -> dict[str, Any]:
    roles = ("unk_token", "bos_token", "eos_token", "pad_token")
    return {role: getattr(tokenizer, role) for role in roles} | {
        "model_max_length": tokenizer.model_max_length
    }


def load(folder: Path, generation: int | None, *, context: int, exact: bool = False) -> Any:
    """The tokenizer in ``folder``: a fast one where that is exact, else, or with ``exact``, a slow one.

    ``context``: tokens. Padding is ``<unk>``, as in the originals. Raises ProblemsError LS4154.
    """
    path = folder / FILE
    _, proto = read(path)
    trained = proto.trainer_spec
    settings = {
        **_settings(generation),
        "unk_token": trained.unk_piece,
        "bos_token": trained.bos_piece,
        "eos_token": trained.eos_piece,
        "pad_token": trained.unk_piece,
        "model_max_length": context,
    }
    quick, slow = _classes()
    made: Any
    if can_be_fast(proto) and not exact:
        made = quick(tokenizer_object=fast(proto), split_special_tokens=True, **settings)
    else:
        made = slow(vocab_file=str(path), split_special_tokens=True, **settings)
        made.add_special_tokens({"additional_special_tokens": _added()})
    made.generation, made.vocab_path = generation, path
    return made
