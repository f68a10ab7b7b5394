"""TensorBoard: loss, validation, rates, gradients and weights, speed, memory, previews."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.events import Event, Previewed, RolledBack, StepDone, Validated

from .figures import figures

if TYPE_CHECKING:
    import torch


class TensorBoard:
    """``purge_step`` makes TensorBoard forget what an interrupted attempt wrote beyond the checkpoint.

    A disk that refuses a line ends TensorBoard's own thread and so its file: the next event opens another.
    """

    def __init__(
        self,
        folder: Path,
        parameters: Mapping[str, torch.nn.Parameter],
        root: Path,
        *,
        start_step: int,
        every_steps: int,
        histogram_every_steps: int,
    ) -> None:
        self.folder = folder
        self.purge_step = start_step + 1 if start_step else None
        self._writer: Any = None
        self.parameters = parameters
        self.root = root
        self.every_steps = every_steps
        self.histogram_every_steps = histogram_every_steps

    @property
    def writer(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            _hush_failed_writers()
            self._writer = SummaryWriter(str(self.folder), purge_step=self.purge_step)
            self.purge_step = None
        return self._writer

    def __call__(self, event: Event, step: int) -> None:
        try:
            self._show(event, step)
        except OSError:
            self.close()
            raise

    def _show(self, event: Event, step: int) -> None:
        if isinstance(event, StepDone):
            if step % self.every_steps == 0:
                self._scalars(event, step)
            if step % self.histogram_every_steps == 0 or step == 1:
                self._distributions(step)
        elif isinstance(event, RolledBack):
            self.close()
            self.purge_step = event.to_step + 1
        elif isinstance(event, Validated):
            self._scalars(event, step)
        elif isinstance(event, Previewed):
            for index, text in enumerate(event.texts):
                self.writer.add_text(f"preview/{index}", text, step)
            self._pictures([name for name in event.files if name.endswith(".png")], step)

    def _scalars(self, event: Event, step: int) -> None:
        for name, value in figures(event).items():
            self.writer.add_scalar(name, value, step)

    def _distributions(self, step: int) -> None:
        import torch

        with torch.no_grad():
            for kind in ("lora_A", "lora_B"):
                chosen = [p for name, p in self.parameters.items() if f".{kind}." in name]
                if not chosen:
                    continue
                weights = torch.cat([p.detach().float().flatten() for p in chosen])
                self.writer.add_scalar(f"weights/norm_{kind}", weights.norm(), step)
                self.writer.add_histogram(f"weights/{kind}", weights.cpu().numpy(), step)
                grads = [p.grad.float().flatten() for p in chosen if p.grad is not None]
                if grads and bool(torch.isfinite(flat := torch.cat(grads)).all()):
                    self.writer.add_histogram(f"gradients/{kind}", flat.cpu().numpy(), step)

    def _pictures(self, files: list[str], step: int) -> None:
        import numpy as np
        from PIL import Image

        for index, name in enumerate(files):
            with Image.open(self.root / name) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self.writer.add_image(f"preview/{index}", pixels, step, dataformats="HWC")

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(OSError):
                writer.close()


def _hush_failed_writers() -> None:
    """TensorBoard's thread hands its error over and then prints a traceback as well, which is left out."""
    before = threading.excepthook
    if getattr(before, "hushes", False):
        return

    def hook(arguments: threading.ExceptHookArgs) -> None:
        of_tensorboard = type(arguments.thread).__module__.partition(".")[0] == "tensorboard"
        if not (of_tensorboard and issubclass(arguments.exc_type, OSError)):
            before(arguments)

    hook.hushes = True  # type: ignore[attr-defined]
    threading.excepthook = hook
