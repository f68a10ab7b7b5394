"""A tokenizer as GGUF keeps it: words, kinds, merges or scores, special ids, chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora_scripts.core.problems import Problem, ProblemsError

from .gguf_file import Entry, entry

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""llama.cpp's kinds of token."""
WITH_LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {(WITH_LETTERS % "", False): "qwen2", (WITH_LETTERS % "{1,3}", True): "llama-bpe"}
"""(regular expression that cuts text into words, whether known words skip the merges) -> llama.cpp's name of
the pre-tokenizer that does the same."""
SPECIALS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
LATER = -1000.0
"""Score of an added word: it is found whole, never merged."""


def _stop(reason: str) -> ProblemsError:
    return ProblemsError(Problem("LS4314", {"reason": reason}))


def pre_tokenizer(backend: dict[str, Any]) -> str:
    """llama.cpp's name for how a byte-level BPE cuts text before it merges; ProblemsError LS4314 where none
    is known to do the same."""
    steps = backend.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    kinds = [step.get("type") for step in steps]
    last = steps[-1]
    if kinds[-1:] != ["ByteLevel"] or last.get("add_prefix_space"):
        raise _stop(str(kinds))
    if kinds == ["ByteLevel"] and last.get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and last.get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not last.get("use_regex", True):
        regex = steps[0].get("pattern", {}).get("Regex")
        if found := SPLITS.get((regex, bool(backend["model"].get("ignore_merges")))):
            return found
        raise _stop(str(regex))
    raise _stop(str(kinds))


def _words(tokenizer: Any, size: int) -> tuple[list[str], list[int]]:
    """Words by id up to ``size``, ids without one filled as llama.cpp's converter fills them, and kinds."""
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    texts, kinds = [], []
    for number in range(size):
        word = words.get(number, f"[PAD{number}]")
        kind = NORMAL if number in words else UNUSED
        if number in added:
            looks = word.startswith(("<|", "<｜")) and word.endswith(("|>", "｜>"))
            kind = CONTROL if added[number].special or looks else USER_DEFINED
        texts.append(word)
        kinds.append(kind)
    return texts, kinds


def _merges(backend: dict[str, Any]) -> list[tuple[str, str]]:
    """The merges in order, whichever of its two forms the file has."""
    found = backend["model"].get("merges") or []
    return [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ", 1)) for pair in found]


def _spaced(part: str) -> str:
    return part.replace(" ", chr(ord(" ") + 256))


def _byte_level(tokenizer: Any, backend: dict[str, Any], size: int) -> list[Entry]:
    texts, kinds = _words(tokenizer, size)
    merges = [f"{_spaced(a)} {_spaced(b)}" for a, b in _merges(backend)]
    return [
        entry("tokenizer.ggml.model", "gpt2"),
        entry("tokenizer.ggml.pre", pre_tokenizer(backend)),
        Entry("tokenizer.ggml.tokens", texts, "ARRAY", "STRING"),
        Entry("tokenizer.ggml.token_type", kinds, "ARRAY", "INT32"),
        Entry("tokenizer.ggml.merges", merges, "ARRAY", "STRING"),
    ]


def _scores(backend: dict[str, Any], texts: list[str]) -> list[float]:
    """SentencePiece's BPE scores: a word's is minus the place of the merge that first makes it."""
    place: dict[str, int] = {}
    for number, (left, right) in enumerate(_merges(backend)):
        place.setdefault(left + right, number)
    last = float(len(place))
    return [-float(place.get(word, last)) for word in texts]


def _model_scores(model: Path) -> dict[str, float]:
    """Piece -> score of a ``tokenizer.model``, which is SentencePiece's own file."""
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor()
    pieces.Load(str(model))
    return {pieces.IdToPiece(number): pieces.GetScore(number) for number in range(pieces.GetPieceSize())}


def _space_prefix(backend: dict[str, Any]) -> bool:
    """Whether a space is put before the first word."""
    text = json.dumps([backend.get("normalizer"), backend.get("pre_tokenizer")])
    return '"Prepend"' in text or '"prepend_scheme": "first"' in text or '"prepend_scheme": "always"' in text


def _sentence_piece(tokenizer: Any, backend: dict[str, Any], size: int, folder: Path | None) -> list[Entry]:
    texts, kinds = _words(tokenizer, size)
    model = folder / "tokenizer.model" if folder else None
    scores = _scores(backend, texts)
    if model is not None and model.is_file():
        known = _model_scores(model)
        scores = [known.get(word, score) for word, score in zip(texts, scores, strict=True)]
    unknown = tokenizer.unk_token_id
    for number, word in enumerate(texts):
        if number == unknown:
            kinds[number] = UNKNOWN
        elif kinds[number] in (CONTROL, USER_DEFINED, UNUSED):
            scores[number] = LATER
            if kinds[number] == USER_DEFINED:
                texts[number] = word.replace("▁", " ")
        elif len(word) == 6 and word.startswith("<0x"):
            kinds[number] = BYTE
    return [
        entry("tokenizer.ggml.model", "llama"),
        entry("tokenizer.ggml.pre", "default"),
        Entry("tokenizer.ggml.tokens", texts, "ARRAY", "STRING"),
        Entry("tokenizer.ggml.scores", scores, "ARRAY", "FLOAT32"),
        Entry("tokenizer.ggml.token_type", kinds, "ARRAY", "INT32"),
        entry("tokenizer.ggml.add_space_prefix", _space_prefix(backend)),
    ]


def vocabulary(tokenizer: Any, size: int, folder: Path | None = None) -> list[Entry]:
    """Everything under ``tokenizer.`` for a head of ``size`` words; ``folder`` may hold SentencePiece's own
    file. Raises ProblemsError LS4314 for a tokenizer that llama.cpp would cut text with differently."""
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None:
        raise _stop(type(tokenizer).__name__)
    backend = json.loads(inner.to_str())
    kind = backend["model"].get("type")
    if kind != "BPE":
        raise _stop(str(kind))
    if backend["model"].get("byte_fallback"):
        found = _sentence_piece(tokenizer, backend, size, folder)
    else:
        found = _byte_level(tokenizer, backend, size)
    for name, key in SPECIALS.items():
        number = getattr(tokenizer, f"{name}_token_id", None)
        if number is not None:
            found.append(entry(f"tokenizer.ggml.{key}_token_id", int(number)))
    sample = tokenizer("a")["input_ids"]
    found.append(entry("tokenizer.ggml.add_bos_token", bool(sample[:1] == [tokenizer.bos_token_id])))
    found.append(entry("tokenizer.ggml.add_eos_token", bool(sample[-1:] == [tokenizer.eos_token_id])))
    if isinstance(template := getattr(tokenizer, "chat_template", None), str):
        found.append(entry("tokenizer.chat_template", template))
    return found
