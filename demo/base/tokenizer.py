"""The tokenizer: CLIP's byte pairs, cut down.

`merges.txt` holds the first 4,096 merges of CLIP (MIT licence) and those that spell the words of captions
whole. All single bytes stay, so any text can be tokenized, an unknown word merely takes more pieces.
"""

from __future__ import annotations

import json
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"
POSITIONS = 77


def _byte_names() -> list[str]:
    """The 256 printable stand-ins that CLIP's vocabulary uses for bytes, in its order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def write_tokenizer(folder: Path) -> None:
    """Write the files that `CLIPTokenizer.from_pretrained` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    text = Path(__file__).with_name("merges.txt").read_text(encoding="utf-8")
    merges = text.splitlines()[1:]
    singles = _byte_names()
    pieces = [*singles, *(name + "</w>" for name in singles)]
    pieces += [merge.replace(" ", "") for merge in merges]
    pieces += [START, END]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(text, encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    config = {
        **special,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": POSITIONS,
        "tokenizer_class": "CLIPTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
