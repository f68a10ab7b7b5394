"""Pictures of fixed prompts and seeds while a run learns, and one sheet of them all at its end."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lora_scripts.adapters.attach import set_training
from lora_scripts.core.control import Control
from lora_scripts.core.events import Emit, Event, Exported, Previewed, StepDone
from lora_scripts.core.files import write_atomic
from lora_scripts.core.paths import RunFolder
from lora_scripts.toolbox.pictures import make_pictures
from lora_scripts.toolbox.sheets import contact_sheet
from lora_scripts.training.session import Session

if TYPE_CHECKING:
    from PIL.Image import Image

SHEET_SIDE = 256


class _Left(Exception):  # noqa: N818 - a wish, not an error
    """The run was asked to stop while pictures were being drawn."""


class Previews:
    """Draws every so many steps, at the end and on request into ``previews/step-000100/``."""

    def __init__(self, session: Session, folder: RunFolder, control: Control, emit: Emit) -> None:
        self.session = session
        self.folder = folder
        self.control = control
        self.emit = emit
        self.settings = session.config.preview
        self.every_steps = self.settings.every_steps or session.config.save_steps

    def before(self, step: int) -> None:
        """Draws what an attempt that was stopped at ``step`` left out. Pictures of the bare base say nothing
        about a style: the first ones come with the first save."""
        drawn = [self._file(step, index).exists() for index in range(len(self.settings.prompts))]
        if step and self._due(step) and not all(drawn):
            self.draw(step)

    def __call__(self, event: Event, step: int) -> None:
        if isinstance(event, StepDone):
            asked = self.control.take("preview")
            if (asked or self._due(step)) and not self.control.stopping:
                self.draw(step)
        elif isinstance(event, Exported):
            self.sheet()

    def _due(self, step: int) -> bool:
        return step % self.every_steps == 0 or step == self.session.job.total_steps

    def _file(self, step: int, index: int) -> Path:
        return self.folder.previews / f"step-{step:06d}" / f"{index:02d}.png"

    def draw(self, step: int) -> None:
        """The pictures of all prompts as the model is now. The training state is not touched. One that is
        being drawn is finished when the run is asked to stop; the rest is for the next attempt."""
        try:
            pictures = self._pictures()
        except _Left:
            return
        files = []
        for index, picture in enumerate(pictures):
            path = self._file(step, index)
            write_atomic(path, partial(picture.save, format="PNG"))
            files.append(path.relative_to(self.folder.root).as_posix())
        self.emit(Previewed(files=files))

    def _pictures(self) -> list[Image]:
        import torch

        session, settings = self.session, self.settings
        side = session.config.side
        set_training(session.model, session.adapter, False)
        try:
            with torch.no_grad(), session.lend(), session.job.precision.autocast():
                return make_pictures(
                    session.model,
                    settings.prompts,
                    negative_prompt=settings.negative_prompt,
                    encoded=session.extra,
                    seed=settings.seed,
                    steps=settings.steps,
                    guidance_scale=None if settings.guidance_scale == "auto" else settings.guidance_scale,
                    width=settings.width or side,
                    height=settings.height or side,
                    progress=self._heed,
                )
        finally:
            set_training(session.model, session.adapter, True)

    def _heed(self, number: int, total: int) -> None:
        if self.control.stopping:
            raise _Left

    def sheet(self) -> None:
        """``previews/sheet.png``: a row for each prompt, a column for each step."""
        folders = sorted(path for path in self.folder.previews.glob("step-*") if path.is_dir())
        columns = [folder.name.removeprefix("step-").lstrip("0") or "0" for folder in folders]
        rows: list[list[Image]] = []
        for index in range(len(self.settings.prompts)):
            files = [folder / f"{index:02d}.png" for folder in folders]
            rows.append([_small(path) for path in files if path.exists()])
        if rows and columns:
            sheet = contact_sheet(rows, columns=columns, rows=self.settings.prompts)
            write_atomic(self.folder.previews / "sheet.png", partial(sheet.save, format="PNG"))

    def close(self) -> None:
        pass


def _small(path: Path) -> Image:
    from PIL import Image as Pillow

    with Pillow.open(path) as picture:
        copy = picture.convert("RGB")
    copy.thumbnail((SHEET_SIDE, SHEET_SIDE))
    return copy
