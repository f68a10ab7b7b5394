"""One process per run folder: a lock that dies with its holder, and a heartbeat for readers."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import psutil
from filelock import FileLock, Timeout

from .paths import RunFolder
from .problems import Problem, ProblemsError

HEARTBEAT_SECONDS = 5.0
MISSED = 2.5
"""Heartbeats that a run on another host may miss before it counts as dead."""
SAME_START = 2.0
"""Seconds within which two readings of one process's start lie: the clock may have been set in between."""


class RunLock:
    """Held while a run writes its folder. The operating system frees it when the process dies.

    Raises ``ProblemsError`` (LS5001, naming process and host) where another process holds it. On a shared
    disk whose locks do not reach from host to host, the other one's heartbeat is waited for; a lock without
    one is taken over, and ``left_behind`` says so (LS5030).
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.left_behind: Problem | None = None
        self._lock = FileLock(str(folder.lock) + ".held", timeout=0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> RunLock:
        self.folder.root.mkdir(parents=True, exist_ok=True)
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(OSError):  # on a disk that is gone nothing is left to unlock
            self.folder.lock.unlink(missing_ok=True)
        self._lock.release()

    def renew(self) -> None:
        """Takes the lock of a folder that vanished: the old lock went with the old folder."""
        self._lock.release()
        self.folder.root.mkdir(parents=True, exist_ok=True)
        self._take()

    def _take(self) -> None:
        try:
            self._lock.acquire()
        except Timeout:
            raise ProblemsError(self._in_use(self._owner())) from None
        try:
            self._heed(self._owner())
            me = psutil.Process()
            owner = {"pid": me.pid, "started": me.create_time(), "host": socket.gethostname()}
            self.folder.lock.write_text(json.dumps(owner), encoding="utf-8")
        except BaseException:
            self._lock.release()
            raise

    def _heed(self, owner: Mapping[str, Any]) -> None:
        """What the last holder left: nothing, a lock of the dead, or one that this disk does not enforce."""
        if "pid" not in owner or owner["pid"] == os.getpid():
            return
        if owner["host"] == socket.gethostname():
            if _lives(owner):
                raise ProblemsError(self._in_use(owner))
        elif self._beats():
            raise ProblemsError(self._in_use(owner))
        else:
            self.left_behind = Problem("LS5030", self._told(owner), severity="warning")

    def _beats(self) -> bool:
        """Whether somebody touches the heartbeat. Its times are the other host's: only a change counts."""
        before = self._beaten()
        return not self._stop.wait(MISSED * HEARTBEAT_SECONDS) and self._beaten() != before

    def _beaten(self) -> int:
        try:
            return self.folder.heartbeat.stat().st_mtime_ns
        except OSError:
            return 0

    def _owner(self) -> dict[str, Any]:
        """What ``.lock`` says; empty where it is missing, or half written by a process that was killed."""
        try:
            owner = json.loads(self.folder.lock.read_text(encoding="utf-8"))
            return {key: owner[key] for key in ("pid", "started", "host")}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _told(self, owner: Mapping[str, Any]) -> dict[str, Any]:
        return {"path": str(self.folder.root), "pid": owner.get("pid", "?"), "host": owner.get("host", "?")}

    def _in_use(self, owner: Mapping[str, Any]) -> Problem:
        return Problem("LS5001", self._told(owner))

    def _beat(self) -> None:
        while True:
            with suppress(OSError):  # a full or vanished disk is the saver's to report
                self.folder.heartbeat.touch()
                os.utime(self.folder.heartbeat)
            if self._stop.wait(HEARTBEAT_SECONDS):
                return


def _lives(owner: Mapping[str, Any]) -> bool:
    """Whether that very process runs on this host: a number is used again, a start is not."""
    try:
        process = psutil.Process(int(owner["pid"]))
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - float(owner["started"])) < SAME_START
    except (psutil.Error, ValueError, TypeError):
        return False
