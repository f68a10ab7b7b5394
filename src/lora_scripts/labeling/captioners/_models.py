"""Where a captioner's model lies: a folder, a hub id, ``modelscope:OWNER/NAME`` or ``builtin:NAME``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from lora_scripts.core.lookup import did_you_mean
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.families import _hub
from lora_scripts.families._source import BUILTIN, HUB_ID, MODELSCOPE, OF_FILES


@dataclass(frozen=True)
class Files:
    """What a captioner needs of a hub's repository: which of its files, whether a folder has them all, and
    the same as patterns for ModelScope."""

    choose: Callable[[Iterable[str]], list[str]] = _hub.wanted
    whole: Callable[[Path], bool] = _hub.complete
    patterns: tuple[str, ...] = _hub.PATTERNS


def stop(code: str, path: Path, **params: object) -> ProblemsError:
    return ProblemsError(Problem(code, {"path": str(path), **params}, Location(str(path))))


def missing_package(package: str) -> ProblemsError:
    """LS3152, with the command that installs ``package`` into the Python that runs."""
    command = f'"{sys.executable}" -m pip install {package}'
    return ProblemsError(Problem("LS3152", {"package": package, "command": command}))


def locate(model: str, files: Files | None = None) -> Path:
    """The file or folder that ``model`` names; only a hub's model that is not cached reaches for the network.

    Raises ProblemsError: LS3150 a hub cannot give it, LS3151 no such path, LS3152 ModelScope's library is
    missing, LS3167 no such built-in one.
    """
    files = files or Files()
    if model.startswith(BUILTIN):
        return _builtin(model)
    if model.startswith(MODELSCOPE):
        repo = model.removeprefix(MODELSCOPE)
        return _asked_for(model, lambda: _hub.fetch_from_modelscope(repo, files.patterns))
    path = Path(model).expanduser()
    if path.exists():
        return path
    if HUB_ID.match(model) and path.suffix.lower() not in OF_FILES and not path.parent.is_dir():
        return _asked_for(model, lambda: _hub.fetch(model, files.choose, files.whole))
    near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else None
    raise stop("LS3151", path, hint=str(path.parent / near) if near else f"{BUILTIN}demo")


def _builtin(model: str) -> Path:
    folder = Path(__file__).parents[2] / "builtin"
    path = folder / f"{model.removeprefix(BUILTIN)}_captioner"
    if not (path / "config.json").is_file():
        known = sorted(
            p.parent.name.removesuffix("_captioner") for p in folder.glob("*_captioner/config.json")
        )
        shown = ", ".join(BUILTIN + name for name in known) or "-"
        raise ProblemsError(Problem("LS3167", {"model": model, "known": shown}))
    return path


def _asked_for(model: str, fetch: Callable[[], Path]) -> Path:
    """A hub's answer; what the families say of a base model is said of a captioner."""
    try:
        return fetch()
    except ProblemsError as error:
        found = error.problems[0]
        if found.code == "LS4018":
            raise missing_package("modelscope") from error
        if model.startswith(MODELSCOPE):
            command = f"modelscope download --model {model.removeprefix(MODELSCOPE)}"
        else:
            command = f"{Path(sys.executable).with_name('hf')} download {model}"
        told = {name: found.params[name] for name in ("endpoint", "reason")}
        raise ProblemsError(Problem("LS3150", {"model": model, "command": command, **told})) from error
