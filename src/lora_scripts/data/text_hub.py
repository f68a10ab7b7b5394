"""A data set of a hub: its training files from the local cache, else downloaded. No script is ever run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..core.hub import reason
from ..core.problems import Location, Problem, ProblemsError
from ..core.secrets import without_secrets
from .text_files import listing

KINDS = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
"""In the order in which they are taken where a data set holds several."""
PATIENCE = 10.0
"""Seconds that the hub has for its first answer."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OTHER_SPLIT = re.compile(r"(^|[/_.-])(test|val|valid|validation|dev|eval)([/_.-]|$)")
_NO_DATA = ("dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json", "config.json")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})")


def is_hub_name(path: str) -> bool:
    """Whether this can only be ``owner/name``: no file or folder is called so, and none could be meant."""
    return (
        _NAME.fullmatch(path) is not None
        and not path.lower().endswith((*KINDS, ".txt", ".gz", ".zip"))
        and not Path(path).parent.is_dir()
    )


def training_files(names: Iterable[str]) -> list[str]:
    """What to read of a data set's files: the training split in one kind of file, shards in order.

    Empty where there is none, or where several parts lie side by side and none can be told to be meant.
    """
    data = [
        name for name in sorted(names) if not name.startswith(".") and name.split("/")[-1] not in _NO_DATA
    ]
    for kind in KINDS:
        files = [name for name in data if name.lower().endswith(kind)]
        named = [name for name in files if "train" in name.lower()]
        files = named or [name for name in files if not _OTHER_SPLIT.search(name.lower())]
        if files:
            parts = {_SHARD.sub("", name) for name in files}
            return files if len(parts) == 1 else []
    return []


def _whole(folder: Path) -> list[Path]:
    """The training files of a cached snapshot, if no shard is missing."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    files = training_files(names)
    expected = [int(found[2]) for name in files if (found := _SHARD.search(name))]
    return [folder / name for name in files] if not expected or len(files) == expected[0] else []


def fetch(name: str) -> list[Path]:
    """The local training files of the data set ``owner/name``.

    Raises ProblemsError: LS2108 neither cached nor to be had, LS2109 no training file that can be told.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    try:
        # of no file, or the library would miss those that we never asked for: ``_whole`` tells what counts
        folder = snapshot_download(name, repo_type="dataset", local_files_only=True, allow_patterns=[""])
        cached = _whole(Path(folder))
        if cached:
            return cached
    except (LocalEntryNotFoundError, OSError, ValueError):
        pass
    answered = False
    try:
        about = HfApi().dataset_info(name, timeout=PATIENCE)
        answered = True
        names = [entry.rfilename for entry in about.siblings or []]
        files = training_files(names)
        if not files:
            data = [n for n in names if n.lower().endswith(KINDS)] or names
            raise ProblemsError(Problem("LS2109", {"name": name, "files": listing(data, 8)}, Location(name)))
        folder = snapshot_download(name, repo_type="dataset", allow_patterns=files)
        return [Path(folder) / file for file in files]
    except (HTTPError, OSError, ValueError) as error:
        endpoint = without_secrets(constants.ENDPOINT)
        params = {"name": name, "endpoint": endpoint, "reason": reason(error, downloading=answered)}
        raise ProblemsError(Problem("LS2108", params, Location(name))) from error
