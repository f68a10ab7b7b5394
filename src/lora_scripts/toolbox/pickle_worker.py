"""The only place that opens a pickle: a process of its own without secrets, with bounded memory and time.

``python -m lora_scripts.toolbox.pickle_worker IN OUT SECONDS`` reads IN with torch's restricted reader, which
knows how to build tensors and calls nothing else, writes its tensors to OUT as safetensors, and compares. The
last line that it prints is a JSON object: what was written, or why nothing was.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

WRAPPERS = ("state_dict", "model_state_dict", "module", "model", "params_ema", "params")
"""Under which key trainers put the weights, beside their own counters and optimizers."""
DEEPEST = 4
INERT = (
    "argparse.Namespace",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "_codecs.encode",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
)
"""What well-known checkpoints hold beside tensors. None of it is imported: ``Stand`` stands in its place."""
ROOM, SPARE = 3, 512 * 2**20
"""Memory beyond what torch itself takes: so many times the file's size, and so many bytes more."""
GROWTH, LEEWAY = 4, 64 * 2**20
"""How much larger than the file its contents may be: weights that names share are written for each."""
WRONG = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, RuntimeError, ValueError, TypeError,
    LookupError, AttributeError, AssertionError, ImportError, ArithmeticError, EOFError, RecursionError,
)  # fmt: skip
"""What the readers raise over a file that is no checkpoint."""


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """``why``: ``program``, ``unreadable``, ``empty``, ``kind``, ``size`` or ``disk``."""

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(why)
        self.why, self.detail = why, detail


class Stand:
    """Takes whatever it is given and does nothing with it."""

    def __init__(self, *given: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def limit(size: int, seconds: int) -> None:
    """Bounds this process's memory, processor time and the files that it writes, where the system can."""
    try:
        import resource
    except ImportError:  # Windows: the parent's clock and torch's own checks remain
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    most = GROWTH * size + 2 * LEEWAY
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return
    memory = taken + ROOM * size + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def is_mapped(source: Path, size: int) -> bool:
    """Whether the file's numbers can be read where they lie. Raises ``Refused`` for an archive that unpacks
    to much more than it is."""
    if not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as archive:
        entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > GROWTH * size + LEEWAY:
        raise Refused("size")
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def read(source: Path, size: int) -> Any:
    """What the file holds, built by torch's restricted reader. Raises ``Refused``."""
    import torch

    torch.serialization.add_safe_globals([(Stand, name) for name in INERT])
    try:
        return torch.load(source, map_location="cpu", weights_only=True, mmap=is_mapped(source, size))
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked:
            raise Refused("program", asked[1]) from error
        raise Refused("unreadable", _first_line(error)) from error
    except MemoryError as error:
        raise Refused("size") from error
    except WRONG as error:
        if "allocate memory" in str(error) or "bad_alloc" in str(error):
            raise Refused("size") from error
        raise Refused("unreadable", _first_line(error)) from error


def _first_line(error: BaseException) -> str:
    """What is wrong, without torch's advice to read the file unrestricted."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    lines = text.splitlines() if "weights_only" not in text[:200] else []
    return (lines[0] if lines else type(error).__name__)[:200]


def weights_of(found: Any) -> tuple[dict[str, Tensor], list[str]]:
    """(the tensors by name, the names of all else). Raises ``Refused`` where there is none."""
    import torch

    left: list[str] = []
    above = ""
    for _ in range(DEEPEST):
        inside = next((n for n in WRAPPERS if isinstance(found, Mapping) and _holds(found.get(n))), None)
        if inside is None:
            break
        left += [f"{above}{name}" for name in found if name != inside]
        found, above = found[inside], f"{above}{inside}."
    if not isinstance(found, Mapping):
        raise Refused("empty", type(found).__name__)
    tensors = {}
    for name, value in found.items():
        if isinstance(value, torch.Tensor) and isinstance(name, str) and name != "__metadata__":
            tensors[name] = value.detach()
        else:
            left.append(f"{above}{name}")
    if not tensors:
        raise Refused("empty", ", ".join(map(str, list(found)[:5])))
    return tensors, left


def _holds(value: Any) -> bool:
    """Whether there are tensors in ``value``, or in what it wraps."""
    import torch

    if not isinstance(value, Mapping):
        return False
    inner = [value.get(name) for name in WRAPPERS]
    return any(isinstance(v, torch.Tensor) for v in value.values()) or any(
        isinstance(v, Mapping) for v in inner
    )


def check(tensors: Mapping[str, Tensor], size: int) -> int:
    """Bytes of all tensors. Raises ``Refused``: ``kind`` for one that safetensors cannot hold, ``size``."""
    import torch

    from lora_scripts.export.tensors_file import NAMES

    total = 0
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or kind not in NAMES:
            raise Refused("kind", f"{name}: {kind}, {tensor.device.type}")
        total += tensor.numel() * tensor.element_size()
    if total > GROWTH * size + LEEWAY:
        raise Refused("size")
    return total


def shared(tensors: Mapping[str, Tensor]) -> int:
    """How many names stand for numbers that an earlier name has too."""
    places = [
        (t.untyped_storage().data_ptr(), t.storage_offset(), t.shape, t.stride()) for t in tensors.values()
    ]
    return len(places) - len(set(places))


def write(target: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes the file and compares every bit of it. Raises ``Refused``."""
    import torch
    from safetensors import safe_open

    from lora_scripts.core.files import write_durable
    from lora_scripts.export.tensors_file import write_tensors

    try:
        write_durable(target, lambda handle: write_tensors(handle, tensors, {"format": "pt"}))
    except OSError as error:
        raise Refused("disk", error.strerror or str(error)) from error
    with safe_open(target, framework="pt") as file:
        if set(file.keys()) != set(tensors):
            raise Refused("disk", target.name)
        for name, tensor in tensors.items():
            again = file.get_tensor(name)
            octets = [t.contiguous().flatten().view(torch.uint8) for t in (tensor, again)]
            if again.shape != tensor.shape or not torch.equal(*octets):
                raise Refused("disk", name)


def main(source: Path, target: Path, seconds: int) -> dict[str, Any]:
    """Converts ``source``; what is to be told about it."""
    import torch

    torch.set_num_threads(1)
    size = source.stat().st_size
    limit(size, seconds)
    try:
        tensors, left = weights_of(read(source, size))
        total = check(tensors, size)
        write(target, tensors)
    except Refused as refused:
        return {"why": refused.why, "detail": refused.detail}
    except MemoryError:
        return {"why": "size", "detail": ""}
    return {"tensors": len(tensors), "bytes": total, "left": left, "shared": shared(tensors)}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
