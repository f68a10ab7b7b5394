"""An Ollama ``Modelfile``: the chat template in Go's language, found from what the tokenizer writes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .go_template import render

SYSTEM, ASKED, ANSWERED, AGAIN = "Ⓢ-system-Ⓢ", "Ⓤ-first-Ⓤ", "Ⓐ-answer-Ⓐ", "Ⓤ-second-Ⓤ"
Turn = Mapping[str, str]


@dataclass(frozen=True)
class ChatShape:
    """How a chat is written. ``template``: in Go's template language, None where the tokenizer's own does
    something that the derived one does not. ``default_system``: what stands there when no system turn is
    given. ``stops``: what ends an answer."""

    template: str | None
    default_system: str
    stops: tuple[str, ...]


def _turns(*pairs: tuple[str, str]) -> list[Turn]:
    return [{"role": role, "content": content} for role, content in pairs]


PROBES = (
    _turns(("user", ASKED)),
    _turns(("user", ASKED), ("assistant", ANSWERED), ("user", AGAIN)),
    _turns(("system", SYSTEM), ("user", ASKED)),
    _turns(("system", SYSTEM), ("user", ASKED), ("assistant", ANSWERED), ("user", AGAIN)),
    _turns(
        ("user", ASKED), ("assistant", ANSWERED), ("user", AGAIN), ("assistant", ANSWERED), ("user", ASKED)
    ),
)


def _written(tokenizer: Any, turns: Sequence[Turn]) -> str | None:
    """What the tokenizer makes of ``turns`` up to where an answer begins, without the BOS if that is one that
    clients add by themselves; None where its template refuses them."""
    from jinja2 import TemplateError

    try:
        text = str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True))
    except (TemplateError, ValueError, TypeError):
        return None
    adds_bos = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return text.removeprefix(tokenizer.bos_token) if adds_bos else text


def _common_end(first: str, second: str) -> str:
    length = 0
    while length < min(len(first), len(second)) and first[-1 - length] == second[-1 - length]:
        length += 1
    return first[len(first) - length :]


def _special(tokenizer: Any) -> list[str]:
    return sorted({*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}, key=len, reverse=True)


def _closing(tokenizer: Any, text: str) -> str:
    """What of ``text`` closes the turn before it: a special token with the blanks around it."""
    words = "|".join(map(re.escape, _special(tokenizer)))
    found = re.match(rf"\s*(?:{words})?\s*", text) if words else re.match(r"\s*", text)
    return found[0] if found else ""


def _pieces(tokenizer: Any) -> dict[str, str] | None:
    """What stands around each role's words: ``ask``, ``asked`` (before and after a user's), ``answer``,
    ``answered``, ``open`` (before an answer that is still to come), ``system``, ``told``, ``start``."""
    single, double = (_written(tokenizer, turns) for turns in PROBES[:2])
    if single is None or double is None or ASKED not in single:
        return None
    before, after = single.split(ASKED)
    parts = re.split("|".join(map(re.escape, (ASKED, ANSWERED, AGAIN))), double)
    if len(parts) != 4 or parts[0] != before or parts[3] != after:
        return None
    middle, between = parts[1], parts[2]
    answered = _closing(tokenizer, between)
    ask = between[len(answered) :]
    if not before.endswith(ask):
        ask = _common_end(before, between)
        answered = between[: len(between) - len(ask)]
    asked = _closing(tokenizer, after)
    if not asked.strip() or not middle.startswith(asked):
        asked = _common_end(after[::-1], middle[::-1])[::-1]
    found = {"ask": ask, "asked": asked, "answered": answered, "start": before[: len(before) - len(ask)]}
    found |= {"answer": middle[len(asked) :], "open": after[len(asked) :], "system": "", "told": ""}
    told = _written(tokenizer, PROBES[2])
    if told is not None and SYSTEM in told and told.split(SYSTEM)[1].endswith(ask + ASKED + after):
        head, tail = told.split(SYSTEM)
        found |= {"system": head, "told": tail.removesuffix(ask + ASKED + after)}
    return found


def _go(text: str) -> str:
    """``text`` as it must be written in a Go template to come out as it is."""
    return text.replace("{{", '{{ "{{" }}') if "{{" in text else text


def _template(pieces: Mapping[str, str], start: str) -> str:
    p = {name: _go(text) for name, text in pieces.items()}
    system = f'{{{{ if eq .Role "system" }}}}{p["system"]}{{{{ .Content }}}}{p["told"]}{{{{ else '
    user = f'if eq .Role "user" }}}}{p["ask"]}{{{{ .Content }}}}{p["asked"]}'
    assistant = f'{{{{ else if eq .Role "assistant" }}}}{p["answer"]}{{{{ .Content }}}}{p["answered"]}'
    head = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{_go(start)}{{{{ end }}}}' if start else ""
    lead = system if pieces["system"] or pieces["told"] else "{{ "
    return f"{head}{{{{ range .Messages }}}}{lead}{user}{assistant}{{{{ end }}}}{{{{ end }}}}{p['open']}"


def stop_words(tokenizer: Any, answered: str, eos_ids: Sequence[int] = ()) -> tuple[str, ...]:
    """The tokens that end an answer: the first special token after one, and the model's own end tokens."""
    places = sorted((answered.find(token), -len(token), token) for token in _special(tokenizer))
    after = [token for place, _, token in places if place >= 0][:1]
    own = [tokenizer.convert_ids_to_tokens(int(number)) for number in eos_ids]
    return tuple(dict.fromkeys(str(t) for t in [*after, tokenizer.eos_token, *own] if t))


def chat_shape(tokenizer: Any, eos_ids: Sequence[int] = ()) -> ChatShape:
    """The Go template that writes what the tokenizer's own template writes, checked on every kind of
    conversation that the latter takes; ``template`` is None where one comes out differently."""
    if not getattr(tokenizer, "chat_template", None):
        return ChatShape(None, "", stop_words(tokenizer, "", eos_ids))
    pieces = _pieces(tokenizer)
    if pieces is None:
        return ChatShape(None, "", stop_words(tokenizer, "", eos_ids))
    start, default = pieces["start"], ""
    if pieces["system"] and start.startswith(pieces["system"]) and start.endswith(pieces["told"]):
        default = start[len(pieces["system"]) : len(start) - len(pieces["told"])]
    template = _template(pieces, "" if default else start)
    stops = stop_words(tokenizer, pieces["answered"], eos_ids)
    for turns in PROBES:
        wanted = _written(tokenizer, turns)
        given = turns
        if default and turns[0]["role"] != "system":
            given = _turns(("system", default)) + list(turns)
        if wanted is not None and render(template, given) != wanted:
            return ChatShape(None, default, stops)
    return ChatShape(template, default, stops)


def modelfile(
    *,
    base: str,
    adapter: str | None,
    shape: ChatShape,
    system: str | None = None,
    note: str | None = None,
) -> str:
    """The text of a ``Modelfile``. ``base``: a GGUF file, a folder or a model of Ollama's; ``adapter``: a
    GGUF LoRA, None for a merged model. ``system`` replaces the template's own default; ``note`` is written
    on top as a comment."""
    lines = [f"# {line}" for line in (note or "").splitlines()]
    lines.append(f"FROM {base}")
    if adapter:
        lines.append(f"ADAPTER {adapter}")
    if shape.template is not None:
        lines.append(f'TEMPLATE """{shape.template}"""')
    spoken = shape.default_system if system is None else system
    if spoken:
        lines.append(f'SYSTEM """{spoken}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in shape.stops]
    return "\n".join(lines) + "\n"


def path_for(target: Path, folder: Path) -> str:
    """How a ``Modelfile`` in ``folder`` names ``target``: beside it by its name, else by its whole path."""
    target, folder = target.resolve(), folder.resolve()
    return f"./{target.name}" if target.parent == folder else str(target)
