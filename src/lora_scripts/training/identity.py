"""What makes two runs the same experiment, and what a run folder may be used for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from lora_scripts.config.schema import RunConfig, defaults, flatten, foreign_keys, harmless_keys
from lora_scripts.core.catalogue import say
from lora_scripts.core.files import write_atomic
from lora_scripts.core.json_pieces import json_pieces
from lora_scripts.core.paths import RunFolder
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.data.fingerprint import differences as picture_differences
from lora_scripts.data.plan import Plan
from lora_scripts.data.text_fingerprint import differences as text_differences

PLACES = frozenset(
    {"train_data_dir", "metadata_path", "datasets", "base_model", "components", "output_dir", "output_name",
     "chat_template", "validation.data_dir", "loss_mask"}
)  # fmt: skip
"""Keys that say where something is. What is there counts, through the fingerprints."""
CUT = ("batch_size", "gradient_accumulation_steps")
"""How a window is cut into micro-batches: their product, the window, is what counts."""
WINDOW = " x ".join(CUT)
UNSAID = frozenset({"resume"})
DIGITS = 12
"""Of a hash, where it is shown to a person."""


@dataclass(frozen=True)
class Identity:
    """``config``: resolved values that shape what is learnt. ``base`` and ``data``: content fingerprints.
    ``harmless``: values that may change when a run goes on, and are then said. ``plain``: keys of both that
    have the value that the schema gives them."""

    config: Mapping[str, Any]
    base: Mapping[str, Any]
    data: Mapping[str, Any]
    harmless: Mapping[str, Any] = field(default_factory=dict)
    plain: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config: RunConfig, base: Mapping[str, Any], data: Mapping[str, Any]) -> Identity:
        values = flatten(config.model_dump(mode="json"))
        own = {key: values[key] for key in values if key not in foreign_keys(config.task_type)}
        free = harmless_keys() | PLACES | set(CUT)
        counts = {key: value for key, value in own.items() if key not in free} | {WINDOW: config.window_size}
        harmless = {key: value for key, value in own.items() if key in free - UNSAID}
        given = defaults()
        plain = frozenset(key for key, value in own.items() if key in given and given[key] == value)
        return cls(counts, base, data, harmless, plain)

    @property
    def digest(self) -> str:
        """Of what counts: equal for two runs of which one may go on where the other stands."""
        return _digest(self.config, self.base, self.data)

    def write(self, folder: RunFolder, begun: Claim | None = None) -> None:
        """``data.json``, then ``identity.json``. ``begun``: where this attempt goes on with a run; it keeps
        that run's digest and the windows that its first attempt cut."""
        cut = begun.windows if begun else {}
        write_atomic(folder.data, self._write_data)
        record = {
            "digest": begun.digest if begun else self.digest,
            "config": self.config,
            "base": self.base,
            "harmless": self.harmless,
            "windows": cut or {key: self.harmless[key] for key in CUT if key in self.harmless},
        }
        write_atomic(folder.identity, _json(record))

    def _write_data(self, handle: BinaryIO) -> None:
        """Piece by piece: there may be a hundred thousand pictures in it."""
        for piece in json_pieces(dict(self.data), indent=1):
            handle.write(piece.encode())

    def differences(self, stored: Record) -> list[str]:
        """One line for each thing in which the run of ``stored`` is another one than this."""
        config = self._with_gained(stored.config, self.config)
        if _digest(config, stored.base, stored.data) == self.digest:
            return []
        if config.get("task_type") != self.config.get("task_type"):
            return _changes(config, self.config, ["task_type"])
        lines = _changes(config, self.config)
        contents = _changes(_weights(stored.base), _weights(self.base))
        compare: Any = text_differences if self.data.get("kind") == "text" else picture_differences
        if found := compare(stored.data, self.data):
            contents += found.lines()
        if contents:  # a place that changed may be why
            contents += _changes(stored.harmless, self.harmless, sorted(PLACES - {"output_dir"}))
        return lines + contents or [say("run.difference.unnamed")]

    def changed(self, stored: Record) -> list[str]:
        """One line for each harmless difference."""
        before = self._with_gained(stored.harmless, self.harmless)
        return _changes(before, self.harmless) if stored.harmless else []

    def _with_gained(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
        """``before`` as this version would have written it: a key that the schema has gained since has, by
        default, the value that means what was done without it."""
        return {key: now[key] for key in self.plain & now.keys() - before.keys()} | dict(before)


@dataclass(frozen=True)
class Record:
    """What ``identity.json`` and ``data.json`` of a folder say."""

    digest: str
    config: Mapping[str, Any]
    base: Mapping[str, Any]
    data: Mapping[str, Any]
    harmless: Mapping[str, Any]
    windows: Mapping[str, int]

    @classmethod
    def read(cls, folder: RunFolder) -> Record | None:
        """None where a file is missing or is not what was written."""
        try:
            told = json.loads(folder.identity.read_text(encoding="utf-8"))
            data = json.loads(folder.data.read_text(encoding="utf-8"))
            return cls(
                str(told["digest"]),
                dict(told["config"]),
                dict(told["base"]),
                dict(data),
                dict(told.get("harmless", {})),
                dict(told.get("windows", {})),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _digest(config: Mapping[str, Any], base: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    told = [dict(config), dict(base), [data.get("kind"), data.get("sha256")]]
    return hashlib.sha256(json.dumps(told, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], keys: Iterable[str] | None = None) -> list[str]:
    among = sorted(set(old) | set(new)) if keys is None else keys
    return [
        f"{key}: {_shown(old.get(key))} → {_shown(new.get(key))}"
        for key in among
        if old.get(key) != new.get(key)
    ]


def _shown(value: Any) -> str:
    """A value as it would be written in the YAML."""
    if value is None:
        return say("run.unset")
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _weights(base: Mapping[str, Any]) -> dict[str, str]:
    """The base and its components by key of the configuration, each as kind, size and the start of hashes."""
    parts = {f"components.{name}": part for name, part in base.get("components", {}).items()}
    parts["base_model"] = {name: value for name, value in base.items() if name != "components"}
    return {
        key: ", ".join(f"{name} {str(value)[:DIGITS]}" for name, value in sorted(part.items()))
        for key, part in parts.items()
    }


def _json(value: Any) -> str:
    return json.dumps(
        value, sort_keys=True, ensure_ascii=False, indent=1, default=lambda mapping: dict(mapping)
    )


Start = Literal["fresh", "resume"]


@dataclass(frozen=True)
class Claim:
    """What a run does in its folder. ``digest``: the run's own, that its checkpoints bear; the one that an
    older version wrote stays. ``changed``: harmless differences from the attempt before.
    ``windows``: how the first attempt cut its windows (keys of ``CUT``)."""

    start: Start
    digest: str
    changed: tuple[str, ...] = ()
    windows: Mapping[str, int] = field(default_factory=dict)


def claim(folder: RunFolder, identity: Identity, *, resume: str) -> Claim:
    """Decides what ``output_dir`` may be used for; called with its lock held.

    A run of the same identity that is not finished goes on. Raises ``ProblemsError``: LS5002 a finished run,
    LS5003 another identity (with all differences), LS5004 an unfinished one that may not be resumed.
    """
    path = str(folder.root)
    if is_finished(folder):
        raise ProblemsError(Problem("LS5002", {"path": path}))
    stored = Record.read(folder)
    lines = identity.differences(stored) if stored else _by_checkpoints(folder, identity)
    if lines:
        raise ProblemsError(Problem("LS5003", {"path": path, "differences": "\n      ".join(lines)}))
    if stored is None and not any(folder.checkpoints.glob("step-*")):
        identity.write(folder)
        return Claim("fresh", identity.digest)
    if resume == "never":
        raise ProblemsError(Problem("LS5004", {"path": path}))
    if stored is None:
        begun = Claim("resume", identity.digest)
    else:
        begun = Claim("resume", stored.digest, tuple(identity.changed(stored)), stored.windows)
    if stored is None or begun.changed or not stored.harmless:
        identity.write(folder, begun)
    return begun


def as_begun(plan: Plan, windows: Mapping[str, int]) -> Plan:
    """``plan`` as the run's first attempt cut it, so that its windows stay the same; smaller micro-batches
    are then parts of these. ``windows``: as in ``Claim``; empty where they are its own."""
    return plan.cut(*(windows[key] for key in CUT)) if windows else plan


def _by_checkpoints(folder: RunFolder, identity: Identity) -> list[str]:
    """Whose the folder is where its own papers are lost: every checkpoint names its run's digest."""
    owners = set()
    for path in folder.checkpoints.glob("step-*/manifest.json"):
        try:
            owners.add(json.loads(path.read_text(encoding="utf-8"))["identity"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged: the store says so
    return [say("run.difference.papers")] if owners and identity.digest not in owners else []


def is_finished(folder: RunFolder) -> bool:
    try:
        return bool(json.loads(folder.result.read_text(encoding="utf-8"))["status"] == "finished")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def move_aside(root: Path) -> Path | None:
    """Renames a used run folder to the first free ``<name>.old-N``; None where there was nothing to move."""
    if not root.exists() or not any(root.iterdir()):
        return None
    number = 1
    while (target := root.with_name(f"{root.name}.old-{number}")).exists():
        number += 1
    root.rename(target)
    return target
