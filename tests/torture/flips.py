"""Bytes that change by themselves: every flip and every cut of a checkpoint's files must be noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lora_scripts.training.checkpoint import MANIFEST, CheckpointStore

from .cuts import Found

SMALL = 32 * 1024
"""Files up to here suffer everything; larger ones a bit in each byte of their header, then samples."""
Progress = Callable[[int, int], None]


def damages(good: bytes, samples: int) -> Iterator[tuple[str, bytes]]:
    """What is done, and the file after it: bytes flipped in one bit and in all, cuts, additions."""
    small = len(good) <= SMALL
    head = len(good) if small else min(len(good), 8 + int.from_bytes(good[:8], "little"))
    sampled = [*range(head, len(good), max(1, (len(good) - head) // samples)), len(good) - 1]
    for at in [*range(head), *sampled] if good else ():
        for bits in (1 << at % 8, 0xFF)[: 2 if small else 1]:
            yield f"byte {at} flipped by {bits:#x}", good[:at] + bytes([good[at] ^ bits]) + good[at + 1 :]
    for at in range(len(good)) if small else sampled:
        yield f"cut to {at} bytes", good[:at]
    for more in (b"\0", b" ", b"\n"):
        yield f"{more!r} added", good + more


def unnoticed(
    store: CheckpointStore,
    *,
    samples: int = 2000,
    only: str = "*",
    progress: Progress = lambda done, total: None,
) -> Found:
    """Damages each file of the newest of at least two checkpoints; the one before must be found instead."""
    newest, older = store.steps()[-1], store.steps()[-2]
    found = Found()
    files = sorted(store.path(newest).glob(only))
    for number, path in enumerate(files):
        good = path.read_bytes()
        for what, bad in damages(good, samples):
            path.write_bytes(bad)
            step, damaged = store.newest()
            passed_over = step == older and list(damaged) == [newest]
            # a manifest that is no longer so may accuse any file, or be another run's
            named = path.name == MANIFEST or path.name in damaged.get(newest, "")
            told = f"checkpoint {step} is used, said is {damaged}"
            found.add(f"{path.name}, {what}", None if passed_over and named else told)
        path.write_bytes(good)
        progress(number + 1, len(files))
    found.add("nothing damaged", None if store.newest() == (newest, {}) else "the checkpoint is refused")
    return found
