"""The one writer of ``.safetensors`` files: equal content gives equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lora_scripts.core.files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8",
    "bool": "BOOL",
}  # fmt: skip


def in_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names in the order of the file: wide dtypes first, as the library does, so that each stays aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def header_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The file's start: eight bytes of length, then JSON with ordered keys, padded to a multiple of eight.

    The library's own writer puts metadata in a random order, so that two equal files differ.
    """
    table: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in in_order(tensors):
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        kind = NAMES[str(tensor.dtype).removeprefix("torch.")]
        table[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def raw(tensor: Tensor) -> memoryview:
    """The tensor's bytes in row order."""
    import torch

    flat = tensor.detach().cpu().contiguous().flatten()
    if not flat.numel():
        return memoryview(b"")
    octets: Any = flat.view(torch.uint8).numpy()
    return memoryview(octets)


def write_tensors(
    handle: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a whole file's bytes to ``handle``; nothing volatile is added."""
    handle.write(header_bytes(tensors, metadata))
    for name in in_order(tensors):
        handle.write(raw(tensors[name]))


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes ``path`` atomically."""
    write_atomic(path, lambda handle: write_tensors(handle, tensors, metadata))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, copied into memory, so that the file may be removed."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
