"""What a language model answers to fixed prompts while it learns, and one page of it all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from lora_scripts.adapters.attach import set_training
from lora_scripts.core.catalogue import say
from lora_scripts.core.control import Control
from lora_scripts.core.events import Emit, Event, Previewed, StepDone
from lora_scripts.core.files import write_atomic
from lora_scripts.core.paths import RunFolder
from lora_scripts.families._base import TextModel
from lora_scripts.families._chat_rows import EMPTY_THINK_AT_END
from lora_scripts.toolbox.talk import generate_texts
from lora_scripts.toolbox.text_page import sentences_page
from lora_scripts.training.session import Session

PAGE = "page.html"
ROWS_LOOKED_AT = 9


class Sentences:
    """Asks before the first step, every so many steps, at the end and on request; the answers of a step go to
    ``previews/step-000100.json``, all of them to ``previews/page.html``."""

    def __init__(self, session: Session, folder: RunFolder, control: Control, emit: Emit) -> None:
        self.session = session
        self.folder = folder
        self.control = control
        self.emit = emit
        self.settings = session.config.preview
        self.every_steps = self.settings.every_steps or session.config.save_steps
        self.thinking = rows_may_think(session.dataset, session.model.tokenizer)

    def before(self, step: int) -> None:
        """The bare base's answers, which all later ones are read against; of an attempt that was stopped at
        ``step``, those that it left out."""
        if not step or (self._due(step) and not self._file(step).exists()):
            self.ask(step)

    def __call__(self, event: Event, step: int) -> None:
        if isinstance(event, StepDone):
            asked = self.control.take("preview")
            if (asked or self._due(step)) and not self.control.stopping:
                self.ask(step)

    def _due(self, step: int) -> bool:
        return step % self.every_steps == 0 or step == self.session.job.total_steps

    def _file(self, step: int) -> Path:
        return self.folder.previews / f"step-{step:06d}.json"

    def ask(self, step: int) -> None:
        """Answers to all prompts by the model as it is now. The training state is not touched."""
        session, settings = self.session, self.settings
        model = cast(TextModel, session.model)
        set_training(model, session.adapter, False)
        try:
            with session.lend(), session.job.precision.autocast():
                answers = generate_texts(
                    model,
                    settings.prompts,
                    system=session.config.system,
                    max_new_tokens=settings.max_new_tokens,
                    temperature=settings.temperature,
                    seed=settings.seed,
                    thinking=self.thinking,
                )
        finally:  # training goes on where a preview finds no memory
            set_training(model, session.adapter, True)
        path = self._file(step)
        asked = {
            "step": step,
            "system": session.config.system,
            "max_new_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "seed": settings.seed,
            "prompts": list(settings.prompts),
            "answers": answers,
        }
        write_atomic(path, json.dumps(asked, ensure_ascii=False, indent=2) + "\n")
        page = self.page(step)
        files = [file.relative_to(self.folder.root).as_posix() for file in (path, page)]
        self.emit(Previewed(files=files, texts=answers))

    def page(self, step: int) -> Path:
        """Writes the page of the steps up to ``step``: later ones are of an attempt that was given up."""
        told = [
            json.loads(path.read_text("utf-8")) for path in sorted(self.folder.previews.glob("step-*.json"))
        ]
        told = [asked for asked in told if asked["step"] <= step]
        prompts = list(dict.fromkeys(prompt for asked in reversed(told) for prompt in asked["prompts"]))
        columns = {asked["step"]: _in_order(asked, prompts) for asked in told}
        path = self.folder.previews / PAGE
        sentences_page(path, prompts, columns, title=say("talk.page.run", name=self.session.config.name))
        return path

    def close(self) -> None:
        pass


def rows_may_think(dataset: Any, tokenizer: Any) -> bool:
    """Whether to ask as a client that lets the model think: not where most prompts of the first rows end with
    the empty block of a client that does not."""
    rows = [dataset.table.row(int(number)) for number in dataset.train[:ROWS_LOOKED_AT]]
    prompts = [tokenizer.decode(row.ids[: int(row.targets.argmax())]) for row in rows]
    return 2 * sum(EMPTY_THINK_AT_END.search(prompt) is not None for prompt in prompts) <= len(prompts)


def _in_order(asked: dict[str, Any], prompts: list[str]) -> list[str | None]:
    """A step's answers in the order of ``prompts``, which a resumed run may have changed."""
    answers = dict(zip(asked["prompts"], asked["answers"], strict=True))
    return [answers.get(prompt) for prompt in prompts]
