"""A base's chat template: which one it is, what it makes of a conversation, and what it does unasked.

Templates come with models and are not trusted: Transformers renders them in Jinja's sandbox, and whatever
they raise becomes a Problem.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lora_scripts.core.lookup import did_you_mean
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.data.chat import Turn
from lora_scripts.data.text_files import printable

from ._chat_templates import BUILT_IN, CONTROL, advised, built_in
from ._special_tokens import is_token, starts_by_itself

Tools = Sequence[Mapping[str, Any]]
Thinking = Literal["keep", "drop"]

EMPTY_THINK = re.compile(r"<think>\s*</think>\s*")
FILLED_THINK = re.compile(r"<think>(.*?\S.*?)</think>", re.DOTALL)
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
INNER_NAME = re.compile(r"__[a-z]+__")
FIXED_DATE = "26 Jul 2024"
"""What templates with a ``date_string`` (Llama 3) are given, so that rows are the same every day: their own
value for clients without a clock."""
_USER, _ASSISTANT, _SYSTEM, _THOUGHT = "Qu3stion", "Answ3r", "Syst3m", "Th0ught"
_TOOL = "T00l"


def thinks(turn: Turn) -> bool:
    """Whether a turn reasons before it answers."""
    return bool((turn.reasoning or "").strip()) or FILLED_THINK.search(turn.content) is not None


def template_of(tokenizer: Any, asked: str | None) -> Any:
    """The Jinja text (or, where a base has several, name -> text) that conversations are rendered with.

    ``asked``: None for the base's own (None where it has none), a built-in name, or a file. Raises
    ProblemsError LS1032 for a name that is neither.
    """
    if asked is None:
        return getattr(tokenizer, "chat_template", None) or None
    if asked in BUILT_IN:
        return built_in(asked, bos=bool(starts_by_itself(tokenizer)))
    path = Path(asked).expanduser()
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError, ValueError) as error:
        near = did_you_mean(asked, BUILT_IN) or "chatml"
        told = {"name": asked, "near": near, "known": ", ".join(BUILT_IN)}
        raise ProblemsError(Problem("LS1032", told)) from error


def advice(tokenizer: Any) -> str:
    """The built-in template that suits a base without one."""
    words = {token for tokens in CONTROL.values() for token in tokens if is_token(tokenizer, token)}
    return advised(words, getattr(tokenizer, "bos_token", None))


class Chat:
    """One tokenizer with one template.

    Raises ProblemsError LS1032 for an unknown template, LS1033 for one that Jinja refuses whatever it is
    given.
    """

    def __init__(self, tokenizer: Any, chat_template: str | None = None, thinking: Thinking = "keep") -> None:
        self.tokenizer = tokenizer
        self.asked = chat_template
        self.thinking = thinking
        self.template = template_of(tokenizer, chat_template)
        texts = self.template.values() if isinstance(self.template, Mapping) else [self.template or ""]
        self.source = "\n".join(texts)
        self.marked = MARKS.search(self.source) is not None
        self.switch = "enable_thinking" in self.source
        """Whether clients can tell the template that the model is not to think."""
        self.dated = "strftime_now" in self.source and "date_string" not in self.source
        """Whether today's date stands in every conversation."""
        if self.template is not None:
            self._compiles()

    def __bool__(self) -> bool:
        return self.template is not None

    def _compiles(self) -> None:
        from jinja2 import Environment, TemplateSyntaxError
        from jinja2.sandbox import SecurityError

        try:
            # The sandbox shows Python's inner names as empty; whoever asks for them means no good.
            for _, kind, value in Environment(autoescape=True).lex(self.source):
                inner = kind in ("name", "string") and INNER_NAME.search(value)
                if inner:
                    raise SecurityError(f"{inner.group()} is out of bounds")
            self._render([{"role": "user", "content": _USER}], None)
        except (TemplateSyntaxError, SecurityError) as error:
            reason = printable(str(error), 200)
            told = {"name": self.asked or "tokenizer_config.json", "reason": reason}
            raise ProblemsError(Problem("LS1033", told)) from error
        except _errors():
            return  # it may ask for more than one turn; rows will tell

    def _text_for(self, tools: Tools | None) -> str:
        if isinstance(self.template, Mapping):
            name = "tool_use" if tools and "tool_use" in self.template else "default"
            return str(self.template.get(name) or next(iter(self.template.values())))
        return str(self.template)

    def _render(
        self, messages: list[dict[str, Any]], tools: Tools | None, *, marks: bool = False, **options: Any
    ) -> tuple[str, list[tuple[int, int]]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        from ._template_bounds import bound_templates

        bound_templates()
        names = dict(self.tokenizer.special_tokens_map)
        if "date_string" in self.source:
            options["date_string"] = FIXED_DATE
        rendering: Any = render_jinja_template(
            conversations=[messages],
            tools=[dict(tool) for tool in tools] if tools else None,
            chat_template=self._text_for(tools),
            return_assistant_tokens_mask=marks,
            **{**names, **options},
        )
        rendered, found = rendering
        return rendered[0], list(found[0]) if marks else []

    def message(self, turn: Turn) -> dict[str, Any]:
        """A turn as templates expect it."""
        content = turn.content
        if turn.role == "assistant" and self.thinking == "drop":
            content = re.sub(rf"\A\s*{EMPTY_THINK.pattern}", "", content)
        found: dict[str, Any] = {"role": turn.role, "content": content}
        if reasoning := (turn.reasoning or "").strip("\n"):
            if self.knows_reasoning:
                found["reasoning_content"] = reasoning
            else:
                found["content"] = f"<think>\n{reasoning}\n</think>\n\n{content}"
        if turn.tool_calls:
            found["tool_calls"] = [_call(call) for call in turn.tool_calls]
        return found

    def render(
        self,
        turns: Sequence[Turn],
        tools: Tools = (),
        *,
        prompt: bool = False,
        thinking: bool = True,
        where: Location | None = None,
    ) -> str:
        """The conversation as text; with ``prompt`` as it stands before the assistant answers.

        ``thinking``: False as for a client that tells the model not to think. Raises ProblemsError LS2203
        with the template's own words.
        """
        options = {"enable_thinking": thinking} if self.switch and prompt else {}
        messages = [self.message(turn) for turn in turns]
        with _refusals(where):
            return self._render(messages, tools, add_generation_prompt=prompt, **options)[0]

    def render_marked(
        self, turns: Sequence[Turn], tools: Tools = (), *, where: Location | None = None
    ) -> tuple[str, list[tuple[int, int]]]:
        """As ``render``, and the places (in characters) that ``{% generation %}`` marks. ProblemsError
        LS2203."""
        with _refusals(where):
            return self._render([self.message(turn) for turn in turns], tools, marks=True)

    def _probe(self, *turns: dict[str, Any], tools: Tools | None = None, **options: Any) -> str:
        """What the template makes of a made-up conversation, empty where it refuses."""
        if self.template is None:
            return ""
        try:
            return self._render(list(turns), tools, **options)[0]
        except _errors():
            return ""

    @cached_property
    def knows_reasoning(self) -> bool:
        """Whether the template has a place for reasoning of its own; else it goes into the answer."""
        answer = {"role": "assistant", "content": _ASSISTANT, "reasoning_content": _THOUGHT}
        text = self._probe({"role": "user", "content": _USER}, answer)
        return _THOUGHT in text or "reasoning_content" in self.source

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the template tells the model which tools it may call."""
        function = {"name": _TOOL, "description": _TOOL, "parameters": {"type": "object", "properties": {}}}
        tools = [{"type": "function", "function": function}]
        return _TOOL in self._probe({"role": "user", "content": _USER}, tools=tools)

    @cached_property
    def default_system(self) -> str:
        """The system prompt that the template adds to a conversation without one, empty if none."""
        user = {"role": "user", "content": _USER}
        bare = self._probe(user)
        given = self._probe({"role": "system", "content": _SYSTEM}, user)
        before, found, rest = given.partition(_SYSTEM)
        after = rest.partition(_USER)[0]
        head = bare.partition(_USER)[0]
        if not found or len(head) <= len(before) + len(after) or not head.startswith(before):
            return ""
        middle = head[len(before) : len(head) - len(after)] if head.endswith(after) else ""
        return middle.strip()

    @cached_property
    def empty_think(self) -> Literal["answer", "prompt", "none"]:
        """Where an answer without reasoning gets an empty ``<think></think>``: in the prompt of a client that
        turns thinking off, only in the text of the answer, or nowhere."""
        user, answer = {"role": "user", "content": _USER}, {"role": "assistant", "content": _ASSISTANT}
        asked = self._probe(user, add_generation_prompt=True, enable_thinking=False)
        if EMPTY_THINK.search(asked):
            return "prompt"
        return "answer" if EMPTY_THINK.search(self._probe(user, answer)) else "none"


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call whose arguments are an object wherever they can be read as one."""
    function = dict(call.get("function", call))
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except ValueError:
            parsed = None
        function["arguments"] = parsed if isinstance(parsed, dict) else arguments
    return {**call, "type": "function", "function": function}


def _errors() -> tuple[type[BaseException], ...]:
    """All that a template can raise: its own refusals, and what Python says to its arithmetic."""
    import jinja2

    return (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        MemoryError,
    )


@contextmanager
def _refusals(where: Location | None) -> Iterator[None]:
    try:
        yield
    except _errors() as error:
        reason = printable(str(error) or type(error).__name__, 200)
        raise ProblemsError(Problem("LS2203", {"reason": reason}, where)) from error
