"""A save cut off at every call, robbed of power after every call, and its calls held against the rules."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .calls import KILLED, WRITE, Call, Calls
from .order import broken_rules
from .power import read, worlds
from .saves import Save

Progress = Callable[[int, int], None]


@dataclass
class Found:
    """``points``: cuts, states or calls that were looked at. ``failures``: a line for each bad one."""

    points: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, what: str, wrong: str | None) -> None:
        self.points += 1
        if wrong:
            self.failures.append(f"{what}: {wrong}")


def calls_of(save: Save, place: Path) -> list[Call]:
    """Every call of a save that nothing disturbs, in a fresh folder."""
    place.mkdir(parents=True, exist_ok=True)
    save.prepare(place)
    with Calls(place) as calls:
        save.act(place)
    return calls.log


def in_order(save: Save, place: Path) -> Found:
    """Whether each thing is durable before the next one relies on it."""
    log = calls_of(save, place)
    found = Found(len(log))
    found.failures += [f"{save.name}: {broken}" for broken in broken_rules(log)]
    return found


def without_power(save: Save, place: Path, progress: Progress = lambda done, total: None) -> Found:
    """Whether what is left of a save after a power failure at any point is the old state or the new one."""
    start = place / "run"
    start.mkdir(parents=True)
    save.prepare(start)
    disk = read(start)
    with Calls(start) as calls:
        save.act(start)
    found = Found()
    for done, state in worlds(disk, calls.log, place):
        last = str(calls.log[done - 1]) if done else "before the first call"
        found.add(f"{save.name}, power lost after {last}", save.wrong(state, finished=done == len(calls.log)))
        shutil.rmtree(state)
        progress(done, len(calls.log))
    return found


def cut_off(
    save: Save, place: Path, *, fork: bool = False, progress: Progress = lambda done, total: None
) -> Found:
    """Kills a save before each of its calls, and in the middle of each write; then the next one must work.

    ``fork``: each in a process of its own, which ends there.
    """
    log = calls_of(save, place / "whole")
    start = place / "start"
    start.mkdir(parents=True)
    save.prepare(start)
    found = Found()
    for number, call in enumerate(log):
        for torn in (False, True) if call.name == WRITE else (False,):
            root = place / "cut"
            shutil.copytree(start, root)
            _die(save, root, number, torn, fork)
            what = f"{save.name}, killed {'in' if torn else 'before'} call {number}, {call}"
            found.add(what, save.wrong(root, finished=False) or save.again(root))
            shutil.rmtree(root)
        progress(number + 1, len(log))
    return found


def _die(save: Save, root: Path, number: int, torn: bool, fork: bool) -> None:
    if not fork:
        with Calls(root, number, torn=torn) as calls:
            save.act(root)
        assert len(calls.log) == number + 1, "the save ended before it was cut off"
        return
    child = os.fork()
    if not child:
        try:
            with Calls(root, number, torn=torn, fork=True):
                save.act(root)
        except BaseException:  # a child must never return into its parent's program
            traceback.print_exc()
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == KILLED, f"the save was not cut off at call {number}: exit code {code}"
