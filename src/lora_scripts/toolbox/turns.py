"""A conversation as the tokens that a model is asked with, and the tokens that end its answer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.data.chat import Role, Turn
from lora_scripts.families._base import TextModel
from lora_scripts.families._chat import Chat
from lora_scripts.families._special_tokens import Specials

Turns = Sequence[Mapping[str, str]]
"""``{"role": ..., "content": ...}`` of each turn, as OpenAI's messages."""
PROBE = "lighthouse"


def is_chat(tokenizer: Any, template: str | None = None) -> bool:
    return bool(template or getattr(tokenizer, "chat_template", None))


def chat_of(tokenizer: Any, template: str | None = None) -> Chat:
    """The tokenizer with its own chat template, or with ``template`` (Jinja text) in its stead.

    Raises ProblemsError LS1033 for one that is broken or reaches out of its sandbox.
    """
    if template and template != tokenizer.chat_template:
        tokenizer = copy.copy(tokenizer)
        tokenizer.chat_template = template
    return Chat(tokenizer)


def turns_of(prompt: str | Turns, system: str | None) -> list[Turn]:
    """A question, or a conversation, with the system prompt before it unless it has one of its own."""
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    turns = [Turn(cast(Role, turn["role"]), turn["content"]) for turn in asked]
    if system and not any(turn.role == "system" for turn in turns):
        turns.insert(0, Turn("system", system))
    return turns


def prompt_ids(
    tokenizer: Any, turns: Sequence[Turn], template: str | None = None, thinking: bool = True
) -> list[int]:
    """The tokens after which the model answers. Without a template the turns stand one after the other.

    ``thinking``: False tells a template that knows it that the model is not to think. A template that knows
    no system prompt gets it at the head of the first question. Raises ProblemsError LS1033 for a template
    that is broken, LS4357 for one that refuses the turns.
    """
    if not is_chat(tokenizer, template):
        return _plain_ids(tokenizer, "\n".join(turn.content for turn in turns))
    chat = chat_of(tokenizer, template)
    try:
        return _chat_ids(chat, turns, thinking, own=chat.tokenizer is tokenizer)
    except ProblemsError as error:
        reason = error.problems[0].params["reason"]
    try:
        return _chat_ids(chat, _folded(turns), thinking, own=chat.tokenizer is tokenizer)
    except ProblemsError:
        raise ProblemsError(Problem("LS4357", {"reason": reason})) from None


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Text with the BOS that the tokenizer adds, and without an EOS that would end it."""
    ids: list[int] = list(tokenizer(text)["input_ids"])
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids or [tokenizer.bos_token_id or tokenizer.eos_token_id or 0]


def _chat_ids(chat: Chat, turns: Sequence[Turn], thinking: bool, own: bool) -> list[int]:
    tokenizer = chat.tokenizer
    if own and hasattr(tokenizer, "encode_conversation"):  # one that encodes turns, not their text
        messages = [chat.message(turn) for turn in turns]
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
    text = chat.render(turns, prompt=True, thinking=thinking)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _folded(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with the system prompt at the head of the first question."""
    if turns[0].role != "system" or len(turns) < 2:
        return list(turns)
    system, first, *rest = turns
    return [Turn(first.role, f"{system.content}\n\n{first.content}"), *rest]


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
    """The special token that the chat template puts behind an answer; None where it puts text or nothing."""
    if not is_chat(tokenizer, template):
        return None
    try:
        text = chat_of(tokenizer, template).render([Turn("user", "?"), Turn("assistant", PROBE)])
    except ProblemsError:
        return None
    specials, start = Specials(tokenizer), text.rfind(PROBE) + len(PROBE)
    found = specials.last(text, start)
    whole = found is not None and not text[start : found.start()].strip()
    return specials.number(found.group()) if found and whole else None
