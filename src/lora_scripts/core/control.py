"""How a run is asked to stop, save, preview or pause: files in ``control/`` and signals."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from .catalogue import say

REQUESTS = ("stop", "finish", "save", "preview")
SHOW_CURSOR = b"\x1b[?25h\n"
"""Progress bars hide the cursor; a process that leaves at once must give it back."""
EXIT_BY_SIGNAL: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143}
if hasattr(signal, "SIGHUP"):  # a terminal that was closed; Windows has none
    EXIT_BY_SIGNAL[signal.SIGHUP] = 129
ASKED = (signal.SIGINT, signal.SIGTERM)
"""Heeded even where a shell started the run with them ignored, as it does behind ``&``."""


class Control:
    """Collects requests; the loop takes them at step boundaries, other phases ask ``leaving``.

    ``stop`` saves and leaves, ``finish`` ends now and exports, ``pause`` holds while its file exists.
    The first Ctrl-C is a stop; a second one leaves at once. The one with a ``folder`` answers a signal on
    stderr: the step that is to be finished may take its time.
    """

    def __init__(self, folder: Path | None = None, acknowledge: Callable[[str], None] | None = None) -> None:
        self.folder = folder
        self.acknowledge = acknowledge or (lambda request: None)
        self.pending: set[str] = set()
        self.signal: int | None = None
        self._stuck: set[str] = set()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (*REQUESTS, "pause"):
                (folder / name).unlink(missing_ok=True)

    def install_signals(self) -> None:
        for number in EXIT_BY_SIGNAL:
            if number in ASKED or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            if sys.stdout.isatty():
                os.write(1, SHOW_CURSOR)
            os._exit(130)
        if self.signal is None and self.folder is not None:
            sentence = "control.interrupted" if number == signal.SIGINT else "control.terminated"
            with suppress(
                OSError
            ):  # past Python's buffers: the signal may have come in the middle of a print
                os.write(2, f"\n{say(sentence)}\n".encode(sys.stderr.encoding or "utf-8", "replace"))
        self.signal = number
        self.pending.add("stop")

    def request(self, name: str) -> None:
        self.pending.add(name)

    def poll(self) -> None:
        """Takes in the files of ``control/``: each is deleted and acknowledged; holds while paused."""
        if self.folder is None:
            return
        self._take_files()
        pause = self.folder / "pause"
        if os.path.exists(pause):  # unlike Path's, it takes a disk that fails for one without the file
            self.acknowledge("pause")
            while os.path.exists(pause) and not self.leaving:
                time.sleep(0.2)
                self._take_files()
            self.acknowledge("resume")

    def _take_files(self) -> None:
        assert self.folder is not None
        for name in REQUESTS:
            path = self.folder / name
            if not os.path.exists(path):
                self._stuck.discard(name)
            elif name not in self._stuck:
                try:
                    path.unlink(missing_ok=True)
                except OSError:  # a disk that is read-only by now: heeded once, not at every step
                    self._stuck.add(name)
                self.pending.add(name)
                self.acknowledge(name)

    def take(self, name: str) -> bool:
        """True once for each request of that name."""
        if name in self.pending:
            self.pending.discard(name)
            return True
        return False

    def flags(self) -> dict[str, bool]:
        """What every process of a run must know: whether one is asked to leave, and by which signal."""
        signals = {f"signal{number}": self.signal == number for number in EXIT_BY_SIGNAL}
        return {name: name in self.pending for name in ("stop", "finish")} | signals

    def take_over(self, flags: dict[str, bool]) -> None:
        """Makes what any process was asked for this one's own."""
        self.pending |= {name for name in ("stop", "finish") if flags[name]}
        for number in EXIT_BY_SIGNAL:
            if self.signal is None and flags[f"signal{number}"]:
                self.signal = number

    @property
    def stopping(self) -> bool:
        """Asked to save and leave, to go on another time."""
        return "stop" in self.pending

    @property
    def leaving(self) -> bool:
        return bool(self.pending & {"stop", "finish"})

    @property
    def exit_code(self) -> int:
        return EXIT_BY_SIGNAL.get(self.signal, 0) if self.signal is not None else 0
