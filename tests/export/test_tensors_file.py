"""The one writer: readable by the library, the same bytes every time, every tensor aligned."""

from __future__ import annotations

import json

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lora_scripts.export.tensors_file import write_safetensors

KINDS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
         torch.int8, torch.uint8, torch.bool)  # fmt: skip


def tensors():
    made = {f"t{n}": torch.arange(7).to(kind).view(7, 1)[: n + 1] for n, kind in enumerate(KINDS)}
    return {
        **made,
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "view": torch.arange(6.0).view(2, 3).T,
    }


def test_the_library_reads_back_what_was_written(tmp_path):
    wanted = tensors()
    write_safetensors(tmp_path / "a.safetensors", wanted, {"b": "2", "a": "霓虹"})
    found = load_file(str(tmp_path / "a.safetensors"))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safe_open(tmp_path / "a.safetensors", "pt") as handle:
        assert handle.metadata() == {"a": "霓虹", "b": "2"}


def test_order_of_arrival_leaves_no_mark(tmp_path):
    wanted = tensors()
    write_safetensors(tmp_path / "a.safetensors", wanted, {"a": "1", "b": "2"})
    write_safetensors(tmp_path / "b.safetensors", dict(reversed(wanted.items())), {"b": "2", "a": "1"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_every_tensor_starts_at_a_multiple_of_its_element(tmp_path):
    wanted = tensors()
    write_safetensors(tmp_path / "a.safetensors", wanted)
    data = (tmp_path / "a.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert (8 + length) % 8 == 0
    for name, entry in json.loads(data[8 : 8 + length]).items():
        assert entry["data_offsets"][0] % wanted[name].element_size() == 0
