"""Where a base model lies, and which family it is: settled from headers, before any weight is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lora_scripts.core.lookup import did_you_mean, plugin, plugin_names
from lora_scripts.core.paths import ADAPTER_CONFIG
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.data.text_files import printable

from ._base import Family
from ._fetched import NAME as DEMO_CHAT
from ._fetched import fetch_demo_chat
from ._header import PICKLES, Header, read_header
from ._signatures import signature, title

BUILTIN, MODELSCOPE = "builtin:", "modelscope:"
OF_FILES = (*PICKLES, ".safetensors", ".onnx", ".gguf")
"""Endings of a path that cannot be a hub id; an id such as ``Qwen/Qwen2.5-0.5B-Instruct`` has a dot too."""
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
PLAIN_SHARD = re.compile(r"[^/\\:\0]+\.safetensors")
PLAIN_PART = re.compile(r"\w[\w-]*")
HASH_WHOLE = 256 * 2**20
"""Bytes up to which a file is hashed whole; a larger one is sampled, so that a run starts at once."""


@dataclass(frozen=True)
class Source:
    """A base model on this machine.

    ``kind``: a Diffusers ``folder``, a single ``file``, a ``transformers`` folder (``config.json`` on top) or
    a ``gguf`` file. ``shapes``: in a Diffusers folder each name starts with ``<component>/``. ``config``: a
    Transformers folder's ``config.json``. ``components``: where parts come from that it has not, unless asked
    for otherwise.
    """

    given: str
    kind: Literal["folder", "file", "transformers", "gguf"]
    path: Path
    headers: Mapping[str, Header] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    metadata: Mapping[str, str] = field(repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    components: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def builtin(self) -> bool:
        return self.given.startswith(BUILTIN)

    @property
    def name(self) -> str:
        """What a person calls it: the file's or folder's name, the hub id, ``builtin:demo``."""
        hub = HUB_ID.match(self.given) and not Path(self.given).exists()
        named = self.builtin or hub or self.given.startswith(MODELSCOPE)
        return self.given if named else self.path.name

    def fingerprint(self) -> dict[str, Any]:
        """Kind, size and a content hash of every weights file (of samples, in files over 256 MB)."""
        files = sorted({header.path for header in self.headers.values()}) or [self.path]
        digest = hashlib.sha256()
        for path in files:
            digest.update(path.relative_to(self.path.parent).as_posix().removeprefix(self.path.name).encode())
            _hash_into(digest, path)
        return {
            "kind": self.kind,
            "bytes": sum(path.stat().st_size for path in files),
            "sha256": digest.hexdigest(),
        }


def _hash_into(digest: Any, path: Path) -> None:
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "little"))
    with open(path, "rb") as handle:
        if size <= HASH_WHOLE:
            while block := handle.read(2**20):
                digest.update(block)
            return
        for number in range(256):
            handle.seek(number * (size - 2**16) // 255)
            digest.update(handle.read(2**16))


def _stop(code: str, place: Path | str, **params: object) -> ProblemsError:
    return ProblemsError(Problem(code, {"path": str(place), **params}, where=None))


def weights_in(folder: Path) -> list[Path]:
    """The ``.safetensors`` files of a component's folder: the plain ones, else those of the fp16 variant."""
    found = sorted(folder.glob("*.safetensors"))
    variants = [path for path in found if re.search(r"\.(fp16|bf16|non_ema|ema)(\.|-)", path.name)]
    plain = [path for path in found if path not in variants]
    return plain or [path for path in variants if ".fp16" in path.name] or variants


def confine_shards(folder: Path) -> None:
    """Raises ProblemsError LS4477 where an index beside the weights names more than plain ``.safetensors``
    files of the same folder: the libraries open whatever stands there, by its ending."""
    for index in sorted(folder.glob("*.safetensors*.index.json")):
        try:
            named = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _stop("LS4477", index, name=type(error).__name__) from error
        for name in sorted(named, key=str):
            plain = isinstance(name, str) and PLAIN_SHARD.fullmatch(name)
            if not plain:
                raise _stop("LS4477", index, name=printable(str(name)))


def _folder(given: str, path: Path) -> Source:
    index = path / "model_index.json"
    if not index.is_file():
        if (path / "config.json").is_file():
            return _transformers(given, path)
        raise _stop("LS4019" if (path / ADAPTER_CONFIG).is_file() else "LS4014", path)
    headers: dict[str, Header] = {}
    named = json.loads(index.read_text("utf-8"))
    parts = [name for name, value in named.items() if isinstance(value, list) and PLAIN_PART.fullmatch(name)]
    for part in parts:
        confine_shards(path / part)
        for file in weights_in(path / part):
            headers[f"{part}/{file.name}"] = read_header(file)
    shapes = {
        f"{key.split('/')[0]}/{name}": shape
        for key, head in headers.items()
        for name, shape in head.shapes.items()
    }
    return Source(given, "folder", path, headers, shapes, {})


def _transformers(given: str, path: Path) -> Source:
    """A language model's folder. One that holds pickles only has no headers: its family says so."""
    try:
        config = json.loads((path / "config.json").read_text("utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise _stop("LS4014", path)
    confine_shards(path)
    headers = {file.name: read_header(file) for file in weights_in(path)}
    shapes = {name: shape for header in headers.values() for name, shape in header.shapes.items()}
    return Source(given, "transformers", path, headers, shapes, {}, config)


def _file(given: str, path: Path) -> Source:
    if path.suffix.lower() == ".gguf":
        return Source(given, "gguf", path, {}, {}, {})
    header = read_header(path)
    return Source(given, "file", path, {path.name: header}, header.shapes, header.metadata)


def resolve(base_model: str) -> Source:
    """Finds a base: ``builtin:NAME``, a Diffusers or Transformers folder, a ``.safetensors`` or ``.gguf``
    file, a hub id, or ``modelscope:OWNER/NAME``.

    Only a hub id that is not in the local cache, and ``builtin:demo-chat`` the first time, reach for the
    network. Raises ProblemsError LS4001 to LS4006, LS4014, LS4019, LS4380 to LS4382.
    """
    if base_model.startswith(BUILTIN):
        name = base_model.removeprefix(BUILTIN)
        if name == DEMO_CHAT:
            return _transformers(base_model, fetch_demo_chat())
        path = Path(__file__).parents[1] / "builtin" / f"{name}_base"
        if not (path / "model_index.json").is_file():
            raise _stop("LS4001", base_model, hint=f"{BUILTIN}demo, {BUILTIN}{DEMO_CHAT}")
        return _folder(base_model, path)
    if base_model.startswith(MODELSCOPE):
        from ._hub import fetch_from_modelscope

        return _folder(base_model, fetch_from_modelscope(base_model.removeprefix(MODELSCOPE)))
    path = Path(base_model).expanduser()
    if path.is_file():
        return _file(base_model, path)
    if path.is_dir():
        return _folder(base_model, path)
    if HUB_ID.match(base_model) and path.suffix.lower() not in OF_FILES:
        from ._hub import fetch

        return _folder(base_model, fetch(base_model))
    near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else None
    raise _stop("LS4001", path, hint=str(path.parent / near) if near else "builtin:demo")


def family_names() -> list[str]:
    from lora_scripts import families

    return plugin_names(families)


def family_named(name: str) -> Family:
    """The family of that name; ProblemsError LS4007 where there is none."""
    from lora_scripts import families

    known = family_names()
    if name not in known:
        near = did_you_mean(name, known) or ", ".join(known)
        raise ProblemsError(Problem("LS4007", {"family": name, "near": near, "known": ", ".join(known)}))
    found: Family = plugin(families, name).FAMILY
    return found


def find(config_family: str, source: Source) -> Family:
    """The family named by the config, or, with ``auto``, the one that recognises the weights.

    Raises ProblemsError: LS4007 unknown name, LS4008 the weights are another family's, LS4009 no family's.
    """
    matches = [family for family in map(family_named, family_names()) if family.recognises(source)]
    kind = matches[0].sheet.named() if matches else title(signature(source.shapes))
    where = Location(str(source.path))
    if config_family == "auto":
        if matches:
            return matches[0]
        known = ", ".join(family_named(name).sheet.named() for name in family_names())
        if kind:
            raise ProblemsError(
                Problem("LS4009", {"path": str(source.path), "kind": kind, "known": known}, where)
            )
        raise ProblemsError(Problem("LS4016", {"path": str(source.path), "known": known}, where))
    family = family_named(config_family)
    if family in matches:
        return family
    if kind is None:
        raise ProblemsError(
            Problem("LS4016", {"path": str(source.path), "known": family.sheet.named()}, where)
        )
    params = {"path": str(source.path), "kind": kind, "family": config_family, "title": family.sheet.named()}
    raise ProblemsError(Problem("LS4008", params, where))
