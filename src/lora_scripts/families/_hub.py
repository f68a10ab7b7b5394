"""A base model named by a hub id: from the local cache, else downloaded, weights in safetensors only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from lora_scripts.core.hub import reason
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.core.secrets import without_secrets

SKIPPED = ("safety_checker", "feature_extractor", "image_encoder")
PATIENCE = 10.0
"""Seconds that the hub has for its first answer."""
TEXTS = (".json", ".txt", ".model")
PATTERNS = ("*.safetensors", "*.jinja", *(f"*{ending}" for ending in TEXTS))


def wanted(files: Iterable[str]) -> list[str]:
    """What to download of a repository's ``files``: configurations, tokenizers, one variant of the
    weights."""
    names = sorted(files)
    if "model_index.json" not in names:
        return _language_model(names)
    chosen = [name for name in names if name == "model_index.json"]
    folders = sorted({name.split("/")[0] for name in names if name.count("/") == 1} - set(SKIPPED))
    for folder in folders:
        inside = [name for name in names if name.startswith(folder + "/")]
        weights = [name for name in inside if name.endswith(".safetensors")]
        plain = [n for n in weights if not any(f".{v}" in n for v in ("fp16", "bf16", "non_ema", "ema"))]
        chosen += [name for name in inside if name.endswith(TEXTS)]
        chosen += plain or [name for name in weights if ".fp16" in name]
    return chosen


def _language_model(names: list[str]) -> list[str]:
    """Of a Transformers repository: what lies on top, without pickles and other programs' copies."""
    top = [name for name in names if "/" not in name]
    weights = [n for n in top if n.endswith(".safetensors") and not n.startswith("consolidated")]
    return [name for name in top if name.endswith((*TEXTS, ".jinja"))] + weights


def complete(folder: Path) -> bool:
    """Whether every part that the folder's index names has its weights; an interrupted download has not."""
    index = folder / "model_index.json"
    if not index.is_file():
        return _whole_language_model(folder)
    parts = [name for name, value in json.loads(index.read_text("utf-8")).items() if isinstance(value, list)]
    models = [name for name in parts if name not in SKIPPED and (folder / name / "config.json").is_file()]
    return bool(models) and all(any((folder / name).glob("*.safetensors")) for name in models)


def _whole_language_model(folder: Path) -> bool:
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        return all((folder / shard).is_file() for shard in shards)
    return any(folder.glob("*.safetensors"))


def fetch_from_modelscope(repo: str, patterns: Iterable[str] = PATTERNS) -> Path:
    """The local snapshot folder of a ModelScope repository, through its own library; of its files those that
    match one of ``patterns``.

    Raises ProblemsError: LS4018 the library is missing, LS4006 the repository cannot be had.
    """
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise ProblemsError(Problem("LS4018", {"repo": repo})) from error
    try:
        return Path(snapshot_download(repo, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        told = {"repo": repo, "endpoint": "ModelScope", "reason": reason(error)}
        raise ProblemsError(Problem("LS4006", told)) from error


def fetch(
    repo: str,
    choose: Callable[[Iterable[str]], list[str]] = wanted,
    whole: Callable[[Path], bool] = complete,
) -> Path:
    """The local snapshot folder of ``repo``; ProblemsError LS4006 where it is neither cached nor reachable.

    ``choose``: of a repository's files those to download; ``whole``: whether a cached folder has all of them.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    try:
        # of no file, or the library would miss those that we never asked for: ``whole`` tells what counts
        local = Path(snapshot_download(repo, local_files_only=True, allow_patterns=[""]))
        if whole(local):
            return local
    except (LocalEntryNotFoundError, OSError):
        pass
    answered = False
    try:
        listing = HfApi().model_info(repo, timeout=PATIENCE)
        answered = True
        files = choose(entry.rfilename for entry in listing.siblings or [])
        # without a revision, so that the cache notes which snapshot is the current one and is found offline
        return Path(snapshot_download(repo, allow_patterns=files))
    except (HTTPError, OSError) as error:
        endpoint = without_secrets(constants.ENDPOINT)
        params = {"repo": repo, "endpoint": endpoint, "reason": reason(error, downloading=answered)}
        raise ProblemsError(Problem("LS4006", params)) from error
