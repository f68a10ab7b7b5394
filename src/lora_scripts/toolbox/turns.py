"""A conversation as the tokens that a model is asked with, and the tokens that end its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.families._base import TextModel

Turns = Sequence[Mapping[str, str]]
"""``{"role": ..., "content": ...}`` of each turn, as OpenAI's messages."""
PROBE = "lighthouse"


def is_chat(tokenizer: Any, template: str | None = None) -> bool:
    return bool(template or getattr(tokenizer, "chat_template", None))


def turns_of(prompt: str | Turns, system: str | None) -> list[dict[str, str]]:
    """A question, or a conversation, with the system prompt before it unless it has one of its own."""
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(t) for t in prompt]
    if system and not any(turn["role"] == "system" for turn in turns):
        turns.insert(0, {"role": "system", "content": system})
    return turns


def prompt_ids(tokenizer: Any, turns: Turns, template: str | None = None) -> list[int]:
    """The tokens after which the model answers. Without a template the turns stand one after the other.

    A template that knows no system prompt gets it at the head of the first question, as such models'
    makers advise. ProblemsError LS4355 where the template refuses the turns.
    """
    if not is_chat(tokenizer, template):
        return _plain_ids(tokenizer, "\n".join(turn["content"] for turn in turns))
    from jinja2 import TemplateError

    try:
        return _template_ids(tokenizer, turns, template)
    except TemplateError as error:
        reason = str(error)
    try:
        return _template_ids(tokenizer, _folded(turns), template)
    except TemplateError:
        raise ProblemsError(Problem("LS4355", {"reason": reason})) from None


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Text with the BOS that the tokenizer adds, and without an EOS that would end it."""
    ids: list[int] = list(tokenizer(text)["input_ids"])
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids or [tokenizer.bos_token_id or tokenizer.eos_token_id or 0]


def _template_ids(tokenizer: Any, turns: Turns, template: str | None) -> list[int]:
    own = template if template and template != tokenizer.chat_template else None
    found = tokenizer.apply_chat_template(
        list(turns), chat_template=own, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return list(found["input_ids"])


def _folded(turns: Turns) -> list[dict[str, str]]:
    """The turns with the system prompt at the head of the first question."""
    said = [turn["content"] for turn in turns if turn["role"] == "system"]
    rest = [dict(turn) for turn in turns if turn["role"] != "system"]
    if said and rest:
        rest[0]["content"] = "\n\n".join([*said, rest[0]["content"]])
    return rest


def stop_ids(model: TextModel, template: str | None = None) -> list[int]:
    """Tokens that end an answer: those that base and tokenizer name, and the one that the chat template puts
    behind an answer."""
    module: Any = model.predictor
    named: list[Any] = []
    for place in (getattr(module, "generation_config", None), module.config.get_text_config()):
        eos = getattr(place, "eos_token_id", None)
        named += eos if isinstance(eos, list | tuple) else [eos]
    named += [model.tokenizer.eos_token_id, end_of_turn(model.tokenizer, template)]
    return sorted({int(token) for token in named if token is not None and token >= 0})


def end_of_turn(tokenizer: Any, template: str | None = None) -> int | None:
    """The control token that the chat template puts behind an answer; None where it puts text or nothing."""
    if not is_chat(tokenizer, template):
        return None
    from jinja2 import TemplateError

    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
    own = template if template and template != tokenizer.chat_template else None
    try:
        text = tokenizer.apply_chat_template(turns, chat_template=own, tokenize=False)
    except TemplateError:
        return None
    rest = text.rpartition(PROBE)[2].lstrip()
    ids = tokenizer(rest, add_special_tokens=False)["input_ids"] if rest else []
    return ids[0] if ids and ids[0] in tokenizer.added_tokens_decoder else None
