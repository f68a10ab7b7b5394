"""Writing and reading GGUF files tensor by tensor, so that no model has to be in memory twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.files import make_folders, sync_folder

if TYPE_CHECKING:
    from torch import Tensor

OUTTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
ROUNDING = {"F32": 1e-6, "F16": 2e-3, "BF16": 1e-2, "Q8_0": 2e-2}
"""By storage: the largest relative distance of a whole tensor from what was to be written."""
BLOCK = 32
"""Numbers that share a scale in Q8_0; a row of another length is stored as F16."""


@dataclass(frozen=True)
class Entry:
    """One line of a GGUF's head. ``kind``: a name of ``GGUFValueType``; ``item``: that of an array's
    items."""

    key: str
    value: Any
    kind: str
    item: str | None = None


def entry(key: str, value: Any) -> Entry:
    """An entry of the kind that clients expect: UINT32, FLOAT32, BOOL, STRING, or an array of one."""
    if isinstance(value, list):
        return Entry(key, value, "ARRAY", entry("", value[0]).kind if value else "STRING")
    kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING", bytes: "STRING"}
    return Entry(key, value, kinds[type(value)])


@dataclass(frozen=True)
class Planned:
    """A tensor that is to be written: ``get`` makes it when its turn comes, ``shape`` as torch counts."""

    name: str
    shape: tuple[int, ...]
    get: Callable[[], Tensor]


def storage(name: str, shape: tuple[int, ...], outtype: str) -> str:
    """How a tensor is stored: vectors and norms in full, as llama.cpp wants them, the rest as asked."""
    if len(shape) < 2 or name.endswith("_norm.weight"):
        return "F32"
    kind = OUTTYPES[outtype]
    return "F16" if kind == "Q8_0" and shape[-1] % BLOCK else kind


def write_gguf(
    path: Path, architecture: str, entries: Sequence[Entry], tensors: Sequence[Planned], outtype: str
) -> None:
    """Writes ``path`` atomically. Equal content gives equal bytes."""
    import gguf
    import numpy as np

    make_folders(path.parent)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    writer = gguf.GGUFWriter(str(temporary), architecture)
    try:
        for item in entries:
            if item.key != "general.architecture":
                inner = gguf.GGUFValueType[item.item] if item.item else None
                writer.add_key_value(item.key, item.value, gguf.GGUFValueType[item.kind], inner)
        kinds = [gguf.GGMLQuantizationType[storage(t.name, t.shape, outtype)] for t in tensors]
        for tensor, kind in zip(tensors, kinds, strict=True):
            shape: tuple[int, ...] = tensor.shape
            width: Any = {"F32": np.float32, "F16": np.float16}.get(kind.name, np.uint8)
            if width == np.uint8:
                shape = gguf.quant_shape_to_byte_shape(shape, kind)
            octets = int(np.prod(shape, dtype=np.int64)) * np.dtype(width).itemsize
            writer.add_tensor_info(tensor.name, shape, np.dtype(width), octets, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, kind in zip(tensors, kinds, strict=True):
            numbers = tensor.get().detach().float().cpu().contiguous().numpy()
            writer.write_tensor_data(gguf.quants.quantize(numbers, kind))
        writer.flush()
        for handle in writer.fout or ():
            os.fsync(handle.fileno())
        writer.close()
        os.replace(temporary, path)
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def read_entries(path: Path) -> list[Entry]:
    """All entries of a file's head in its own order, without those that describe the file itself."""
    import gguf

    found = []
    for field in gguf.GGUFReader(str(path)).fields.values():
        if not field.name.startswith("GGUF."):
            item = field.types[-1].name if len(field.types) > 1 else None
            found.append(Entry(field.name, field.contents(), field.types[0].name, item))
    return found


def stored_tensors(path: Path) -> Iterator[tuple[str, str, Tensor]]:
    """(name, storage, numbers as float32 in torch's order of axes), one after another."""
    import gguf
    import torch

    for tensor in gguf.GGUFReader(str(path)).tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        shape = tuple(int(size) for size in reversed(tensor.shape))
        yield tensor.name, tensor.tensor_type.name, torch.from_numpy(numbers.copy()).reshape(shape)
