"""What was said so far, and the line of training data that it makes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_scripts.core.problems import Problem, ProblemsError


@dataclass(frozen=True)
class Exchange:
    """``whole``: the answer was not cut short by the one who asked."""

    question: str
    answer: str
    whole: bool = True


@dataclass
class Conversation:
    exchanges: list[Exchange] = field(default_factory=list)

    def turns(self, question: str | None = None) -> list[dict[str, Any]]:
        """The conversation as messages, with a further question at the end."""
        found: list[dict[str, Any]] = []
        for exchange in self.exchanges:
            found.append({"role": "user", "content": exchange.question})
            found.append({"role": "assistant", "content": exchange.answer})
        return [*found, {"role": "user", "content": question}] if question is not None else found

    def add(self, question: str, answer: str, *, whole: bool = True) -> None:
        """Remembers an exchange; one without an answer is no part of the conversation."""
        if answer:
            self.exchanges.append(Exchange(question, answer, whole))

    def reset(self) -> None:
        self.exchanges.clear()

    def row(self, system: str | None = None) -> dict[str, Any] | None:
        """A row of training data in OpenAI's form; None where there is no whole answer to learn from. Answers
        that were cut short are kept for their sense and carry no loss."""
        kept = list(self.exchanges)
        while kept and not kept[-1].whole:
            kept.pop()
        if not kept:
            return None
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        for exchange, turn in zip([e for e in kept for _ in range(2)], self.turns(), strict=False):
            cut = turn["role"] == "assistant" and not exchange.whole
            messages.append({**turn, "train": False} if cut else turn)
        return {"messages": messages}

    def save(self, path: Path, system: str | None = None) -> bool:
        """Adds the conversation to ``path`` as one line; False where there is nothing to save.

        Raises ProblemsError LS4355 for a name that does not end in .jsonl and where the disk refuses.
        """
        row = self.row(system)
        if row is None:
            return False
        if path.suffix.lower() != ".jsonl":
            raise ProblemsError(Problem("LS4355", {"path": str(path), "reason": path.suffix or "-"}))
        line = json.dumps(row, ensure_ascii=False) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab+") as handle:
                if handle.tell():
                    handle.seek(-1, 2)
                    line = line if handle.read(1) == b"\n" else "\n" + line
                handle.write(line.encode("utf-8", "replace"))
        except OSError as error:
            told = {"path": str(path), "reason": error.strerror or str(error)}
            raise ProblemsError(Problem("LS4355", told)) from error
        return True
