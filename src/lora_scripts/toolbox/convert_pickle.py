"""``.ckpt``, ``.pt``, ``.pth`` and ``.bin`` to ``.safetensors``, through a locked-down process.

The pickle is opened in ``pickle_worker`` alone: a process with an emptied environment, bounded memory and
time, and torch's restricted reader. Here nothing of it is read but its first bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_scripts.core.catalogue import say
from lora_scripts.core.files import sync_folder, write_atomic
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.data.text_files import printable
from lora_scripts.families._header import PICKLES, is_pickle, pickles_in, read_header, refuse_other_content

WORKER = "lora_scripts.toolbox.pickle_worker"
SOURCES = Path(__file__).resolve().parents[2]
KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "WINDIR", "TEMP", "TMP", "TMPDIR")
"""All of the environment that the worker sees: what Python and torch need to start."""
PATIENCE, PACE = 120, 5 * 2**20
"""Seconds for any file, and bytes that are read, written and compared in each further one."""
REFUSALS = {
    "program": "LS4470",
    "unreadable": "LS4471",
    "empty": "LS4472",
    "kind": "LS4473",
    "size": "LS4474",
    "disk": "LS4476",
}
INDEX = ".index.json"
LIBRARIES = {"pytorch_model": "model"}
"""How a library calls the same weights in its two formats, where the names differ."""


@dataclass(frozen=True)
class Converted:
    """``left``: what the file held besides tensors. ``shared``: names whose numbers another name has too."""

    path: Path
    tensors: int
    bytes: int
    left: tuple[str, ...]
    shared: int


def _stop(code: str, path: Path, **params: object) -> ProblemsError:
    return ProblemsError(Problem(code, {"path": str(path), **params}, Location(str(path))))


def convert(
    source: Path, output: Path | None = None, tell: Callable[[str], None] = lambda sentence: None
) -> list[Converted]:
    """Converts a file, or every pickle that lies directly in a folder, with the index of its shards.

    ``output``: the new file (a folder's: another folder); by default beside the old one, which stays.
    Raises ProblemsError: LS4001 no such path, LS4003 a pickle that poses as safetensors, LS4004 something
    else, LS4308 the new file exists, LS4470 to LS4474 what is in the file, LS4475 nothing to convert, LS4476
    it cannot be written.
    """
    if not source.is_dir():
        return [_file(source, output or source.with_name(new_name(source)), tell)]
    pickles = pickles_in(source)
    if not pickles:
        raise _stop("LS4475", source)
    folder = output or source
    done = [_file(path, folder / new_name(path), tell) for path in pickles]
    for index in sorted(source.glob(f"*.bin{INDEX}")):
        _index(index, folder)
    return done


def new_name(path: Path) -> str:
    """What the converted file is called: as the libraries would call it."""
    stem = path.name.removesuffix(path.suffix)
    for old, new in LIBRARIES.items():
        if stem == old or stem.startswith(f"{old}-"):
            stem = new + stem.removeprefix(old)
    return f"{stem}.safetensors"


def _file(source: Path, target: Path, tell: Callable[[str], None]) -> Converted:
    _check(source, target)
    tell(say("convert.reading", path=source, megabytes=source.stat().st_size // 10**6))
    temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        told = _work(source, temporary)
        header = read_header(temporary)  # the worker is not believed
        if len(header.shapes) != told["tensors"]:
            raise _stop("LS4476", target, reason=temporary.name)
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise _stop("LS4476", target, reason=error.strerror or str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)
    left = tuple(printable(str(name), 80) for name in told["left"])
    return Converted(target, int(told["tensors"]), int(told["bytes"]), left, int(told["shared"]))


def _check(source: Path, target: Path) -> None:
    """Everything that can be said without opening the file."""
    if not source.is_file():
        raise _stop("LS4001", source, hint=source.with_suffix(".ckpt"))
    with open(source, "rb") as handle:
        start = handle.read(64)
    if source.suffix.lower() not in PICKLES:
        if source.suffix.lower() == ".safetensors":
            read_header(source)  # one that is none is refused as everywhere
        raise _stop("LS4475", source)
    if not is_pickle(start):
        refuse_other_content(source, start)
        raise _stop("LS4471", source, detail=say("model.content.pickle"))
    if target.exists():
        raise _stop("LS4308", target)


def _work(source: Path, target: Path) -> dict[str, Any]:
    """What the worker says of the file that it wrote. Raises ProblemsError LS4470 to LS4474, LS4476."""
    seconds = PATIENCE + source.stat().st_size // PACE
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    # -P: the folder that it runs in holds none of its modules
    command = [sys.executable, "-P", "-m", WORKER, str(source.resolve()), str(target.resolve()), str(seconds)]
    with tempfile.TemporaryDirectory(prefix="lora-scripts-") as empty:
        try:
            done = subprocess.run(  # noqa: S603 - this Python, our own module, two paths and a number
                command,
                env=environment,
                cwd=empty,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise _stop("LS4474", source, detail="") from error
    told = _answer(done.stdout)
    if told is None:
        if done.returncode < 0:  # a limit of the system's, or its reader crashed
            raise _stop("LS4474", source, detail="")
        raise _stop("LS4471", source, detail=_last_line(done.stderr))
    if "why" in told:
        code = REFUSALS.get(str(told["why"]), "LS4471")
        detail = printable(str(told.get("detail", "")), 200)
        if code == "LS4476":
            raise _stop(code, target.with_name(new_name(source)), reason=detail)
        raise _stop(code, source, detail=detail)
    return told


def _answer(printed: bytes) -> dict[str, Any] | None:
    lines = printed.decode("utf-8", "replace").strip().splitlines()
    try:
        told = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def _last_line(said: bytes) -> str:
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    return printable(lines[-1] if lines else "?", 200)


def _index(path: Path, folder: Path) -> None:
    """The table of shards under the new names; left out where it is none, since readers do without it."""
    try:
        table = json.loads(path.read_text("utf-8"))
        places = {name: new_name(Path(str(shard))) for name, shard in table["weight_map"].items()}
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return
    name = new_name(Path(path.name.removesuffix(INDEX))) + INDEX
    write_atomic(folder / name, json.dumps({**table, "weight_map": places}, indent=2, sort_keys=True) + "\n")
