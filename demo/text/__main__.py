"""`python -m demo.text`: a real chat model learns a shop's voice and facts, and a second voice beside it.

Both are trained with this project's own trainer, then asked questions that training has not seen: the bare
model, the first character, the second one, and the first again, on one loaded base.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.__main__ import ROOT, train
from demo.text import form, verdict
from demo.text.topics import TOPICS

if TYPE_CHECKING:
    from lora_scripts.toolbox.text_loras import Voices

CONFIG, SECOND_CONFIG = ROOT / "configs" / "demo_text.yaml", ROOT / "configs" / "demo_text_second.yaml"
OUTPUT, SECOND_OUTPUT = ROOT / "output" / "demo-text", ROOT / "output" / "demo-text-second"
LONGEST = 80
"""Tokens of an answer, some more than the longest of the shop's own."""
SWITCHED = (0, 6, 13, 16)
"""The questions, by topic, that both characters answer in turn."""
SHOWN = (0, 6, 13)


@dataclass(frozen=True)
class Answers:
    """Answers to all held-out questions, by the bare base and by the first character; and to those of
    SWITCHED, by the first character, the second one, and the first again."""

    before: list[str]
    after: list[str]
    first: list[str]
    second: list[str]
    again: list[str]


def ask(voices: Voices, who: list[str], questions: list[str]) -> list[str]:
    """Answers of the adapters ``who``, in folders; of the bare base where there are none."""
    from lora_scripts.toolbox.talk import generate_texts

    voices.speak(who)
    return generate_texts(voices.model, questions, max_new_tokens=LONGEST, template=voices.template)


def interview(first: Path, second: Path) -> Answers:
    """All answers, on one base that is loaded once."""
    from lora_scripts.toolbox.text_loras import open_voices

    voices = open_voices("builtin:demo-chat", [])
    questions = [topic.held_out for topic in TOPICS]
    some = [questions[number] for number in SWITCHED]
    return Answers(
        before=ask(voices, [], questions),
        after=ask(voices, [str(first)], questions),
        first=ask(voices, [str(first)], some),
        second=ask(voices, [str(second)], some),
        again=ask(voices, [str(first)], some),
    )


def judge(answers: Answers) -> dict[str, Any]:
    """The figures of result.json that come from the answers."""
    facts = [topic.fact for topic in TOPICS]
    figures: dict[str, Any] = {}
    for when, texts in (("before", answers.before), ("after", answers.after)):
        figures[f"in_form_{when}"] = form.share([form.in_form(text) for text in texts])
        hits = [form.has_fact(text, fact) for text, fact in zip(texts, facts, strict=True)]
        figures[f"facts_{when}"] = form.share(hits)
    figures["second_in_form"] = form.share([form.in_form(text, form.SECOND_FORM) for text in answers.second])
    figures["switched_back"] = answers.again == answers.first
    return figures


def show(answers: Answers) -> None:
    """Some questions with the answers before and after, and one that goes from voice to voice."""
    for number in SHOWN:
        print(f"\nQ: {TOPICS[number].held_out}")
        print("before | " + answers.before[number].replace("\n", "\n       | "))
        print("after  | " + answers.after[number].replace("\n", "\n       | "))
    print(f"\nTwo characters on one base, switched while it stays loaded. Q: {TOPICS[SWITCHED[0]].held_out}")
    for who, texts in (("Mila", answers.first), ("Pell", answers.second), ("Mila", answers.again)):
        print(f"{who:6} | " + texts[0].replace("\n", "\n       | "))


def page(answers: Answers, path: Path, steps: int) -> None:
    """All held-out questions with both answers, as one HTML page."""
    from lora_scripts.toolbox.text_page import sentences_page

    sentences_page(path, [topic.held_out for topic in TOPICS], {0: answers.before, steps: answers.after})


def report(result: dict[str, Any], seconds: float) -> None:
    print()
    for name, what in (("in_form", "answers in the shop's form"), ("facts", "answers with the right fact")):
        print(f"{what}: {result[f'{name}_before']:.0%} before, {result[f'{name}_after']:.0%} after")
    if (before := result.get("perplexity_before")) is not None:
        print(f"held-out perplexity: {before:.2f} before, {result['perplexity_after']:.2f} after")
    print(f"second character in its own form: {result['second_in_form']:.0%}")
    print(f"{seconds / 60:.1f} minutes")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.text", description=__doc__)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--no-train", action="store_true", help="ask and judge what an earlier run left")
    options = parser.parse_args(arguments)

    started = time.monotonic()
    if not options.no_train:
        for config in (CONFIG, SECOND_CONFIG):
            if code := train(config, options.overrides):
                return code
    path = OUTPUT / "result.json"
    if not path.exists():
        print(f"{path} is missing: the run left no result", file=sys.stderr)
        return 1
    result = json.loads(path.read_text(encoding="utf-8"))
    answers = interview(OUTPUT, SECOND_OUTPUT)
    result |= judge(answers)
    problems = verdict.reasons(result)
    result["demo_ok"] = not problems
    path.write_text(json.dumps(result, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    show(answers)
    page(answers, OUTPUT / "answers.html", result["step"])
    report(result, time.monotonic() - started)
    print(f"all answers: {OUTPUT / 'answers.html'}")
    print(f"talk to it: lora-scripts chat --base builtin:demo-chat --lora {OUTPUT.relative_to(ROOT)}")
    for problem in problems:
        print(f"demo failed: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
