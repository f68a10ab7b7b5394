"""Pictures of fixed prompts and seeds while a run learns, and one sheet of them all at its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lora_scripts.adapters.attach import set_training
from lora_scripts.core.control import Control
from lora_scripts.core.events import Emit, Event, Exported, Previewed, StepDone
from lora_scripts.core.paths import RunFolder
from lora_scripts.toolbox.pictures import make_pictures
from lora_scripts.toolbox.sheets import contact_sheet
from lora_scripts.training.session import Session

if TYPE_CHECKING:
    from PIL.Image import Image

SHEET_SIDE = 256


class Previews:
    """Draws every so many steps, at the end and on request into ``previews/step-000100/``."""

    def __init__(self, session: Session, folder: RunFolder, control: Control, emit: Emit) -> None:
        self.session = session
        self.folder = folder
        self.control = control
        self.emit = emit
        self.settings = session.config.preview
        self.every_steps = self.settings.every_steps or session.config.save_steps

    def before(self) -> None:
        """Pictures of the bare base say nothing about a style: the first ones come with the first save."""

    def __call__(self, event: Event, step: int) -> None:
        if isinstance(event, StepDone):
            last = step == self.session.job.total_steps
            if self.control.take("preview") or step % self.every_steps == 0 or last:
                self.draw(step)
        elif isinstance(event, Exported):
            self.sheet()

    def draw(self, step: int) -> None:
        """The pictures of all prompts as the model is now. The training state is not touched."""
        import torch

        session, settings = self.session, self.settings
        set_training(session.model, session.adapter, False)
        side = session.config.side
        with torch.no_grad(), session.lend(), session.job.precision.autocast():
            pictures = make_pictures(
                session.model,
                settings.prompts,
                negative_prompt=settings.negative_prompt,
                encoded=session.extra,
                seed=settings.seed,
                steps=settings.steps,
                guidance_scale=None if settings.guidance_scale == "auto" else settings.guidance_scale,
                width=settings.width or side,
                height=settings.height or side,
            )
        set_training(session.model, session.adapter, True)
        folder = self.folder.previews / f"step-{step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for index, picture in enumerate(pictures):
            path = folder / f"{index:02d}.png"
            picture.save(path)
            files.append(path.relative_to(self.folder.root).as_posix())
        self.emit(Previewed(files=files))

    def sheet(self) -> None:
        """``previews/sheet.png``: a row for each prompt, a column for each step."""
        folders = sorted(path for path in self.folder.previews.glob("step-*") if path.is_dir())
        columns = [folder.name.removeprefix("step-").lstrip("0") or "0" for folder in folders]
        rows: list[list[Image]] = []
        for index in range(len(self.settings.prompts)):
            files = [folder / f"{index:02d}.png" for folder in folders]
            rows.append([_small(path) for path in files if path.exists()])
        if rows and columns:
            contact_sheet(rows, columns=columns, rows=self.settings.prompts).save(
                self.folder.previews / "sheet.png"
            )

    def close(self) -> None:
        pass


def _small(path: Path) -> Image:
    from PIL import Image as Pillow

    with Pillow.open(path) as picture:
        copy = picture.convert("RGB")
    copy.thumbnail((SHEET_SIDE, SHEET_SIDE))
    return copy
