"""One process per run folder: a lock that dies with its holder, and a heartbeat for readers."""

from __future__ import annotations

import json
import os
import socket
import threading
from types import TracebackType

import psutil
from filelock import FileLock, Timeout

from .paths import RunFolder
from .problems import Problem, ProblemsError

HEARTBEAT_SECONDS = 5.0


class RunLock:
    """Held while a run writes its folder. The operating system frees it when the process dies.

    Raises ``ProblemsError`` (LS5001, naming process and host) where another process holds it.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._lock = FileLock(str(folder.lock) + ".held", timeout=0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> RunLock:
        self.folder.root.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise ProblemsError(
                Problem("LS5001", {"path": str(self.folder.root), **self._holder()})
            ) from None
        me = psutil.Process()
        owner = {"pid": me.pid, "started": me.create_time(), "host": socket.gethostname()}
        self.folder.lock.write_text(json.dumps(owner), encoding="utf-8")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.folder.lock.unlink(missing_ok=True)
        self._lock.release()

    def _holder(self) -> dict[str, object]:
        try:
            owner = json.loads(self.folder.lock.read_text(encoding="utf-8"))
            return {"pid": owner["pid"], "host": owner["host"]}
        except (OSError, ValueError, KeyError):
            return {"pid": "?", "host": "?"}

    def _beat(self) -> None:
        while True:
            try:
                self.folder.heartbeat.touch()
                os.utime(self.folder.heartbeat)
            except OSError:
                pass  # a full or vanished disk is the saver's to report
            if self._stop.wait(HEARTBEAT_SECONDS):
                return
