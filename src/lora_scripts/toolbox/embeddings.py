"""What a file of word vectors (textual inversion) is for, and which programs take it."""

from __future__ import annotations

from lora_scripts.families._header import Header

from .clients import CLIENTS, YES, Verdict

SUFFIXES = (".safetensors", ".pt", ".bin")
"""Names under which WebUIs look for embeddings."""
PARTS = ("clip_l", "clip_g")


def embedding_layout(header: Header) -> str:
    """``word``: one tensor, whose name is the word. ``clip``: one for each of SDXL's text encoders, as WebUIs
    name them. ``parts``: several under other names, as trainers that add tokens write them."""
    if set(PARTS) <= set(header.shapes):
        return "clip"
    return "word" if len(header.shapes) == 1 else "parts"


def embedding_base(header: Header) -> str | None:
    """The kind of base whose text encoders have vectors of these widths."""
    widths = {shape[-1] for shape in header.shapes.values() if shape}
    known = {frozenset((768,)): "sd15", frozenset((1024,)): "sd2", frozenset((768, 1280)): "sdxl"}
    return known.get(frozenset(widths))


def vectors(header: Header) -> dict[str, int]:
    """Tensor -> how many vectors it holds; each takes the place of one token of a prompt."""
    return {name: shape[0] if len(shape) > 1 else 1 for name, shape in header.shapes.items()}


def embedding_verdicts(header: Header) -> dict[str, Verdict]:
    """Client -> what it makes of the file, as with LoRAs."""
    layout = embedding_layout(header)
    by_hand, unknown = Verdict("no", "inspect.client.by_hand"), Verdict("unknown")
    if layout == "word":
        found = dict.fromkeys(CLIENTS, YES)
    elif layout == "clip":
        found = {**dict.fromkeys(CLIENTS, YES), "Diffusers": by_hand}
    else:
        found = {
            **dict.fromkeys(CLIENTS, Verdict("no", "inspect.client.several_words")),
            "Diffusers": by_hand,
        }
    if header.path.suffix.lower() not in SUFFIXES:
        suffix = Verdict("no", "inspect.client.suffix")
        found |= {client: suffix for client in CLIENTS[1:4] if found[client].answer == "yes"}
    found["sd-scripts"] = unknown if found["sd-scripts"].answer == "yes" else found["sd-scripts"]
    return found
