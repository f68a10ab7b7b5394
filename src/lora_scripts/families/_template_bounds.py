"""Chat templates come with models and are not trusted: what one of them may cost.

Transformers renders them in Jinja's sandbox, which keeps a template from reaching Python but not from
running for ever or filling the memory. Here steps are counted and sizes checked before anything grows.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

STEPS = 300_000
"""Rounds of loops and calls in one rendering; a long conversation with tools takes some thousands."""
LONGEST = 4_000_000
"""Characters of a text, and entries of a list, that a template may put together."""
ENTRY = 10
"""Characters that an entry of a list counts as, whatever it is."""
WRITTEN = 64_000_000
"""Characters that one rendering may write."""
BITS = 4096
"""Of a whole number."""
_WIDTH = re.compile(r"\d{5,}|\*")
"""A column's width in a format that is no text any more."""
_WHOLE = frozenset({"tojson", "string", "pprint", "join", "list", "xmlattr", "escape", "e", "forceescape"})
"""Filters that look into everything they are given, however deep."""


class _Spent(threading.local):
    """What the rendering of this thread has cost."""

    steps = 0
    written = 0


_spent = _Spent()


def bound_templates() -> None:
    """From here on Transformers compiles every chat template in ``Bounded``."""
    from transformers.utils import chat_template_utils as theirs

    if theirs.ImmutableSandboxedEnvironment is not Bounded:
        setattr(theirs, "ImmutableSandboxedEnvironment", Bounded)  # noqa: B010 - a name that they imported
        theirs._compile_jinja_template.cache_clear()


def _refuse(what: str) -> SecurityError:
    return SecurityError(f"the template takes too much: {what}")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | bytes | dict) else 0


def _weigh(value: Any) -> None:
    """Raises ``SecurityError`` for a value that holds more than may be written, counted as it would be
    written: a list that holds another one twice holds it twice."""
    left, waiting = LONGEST, [value]
    while waiting:
        one = waiting.pop()
        left -= ENTRY + (len(one) if isinstance(one, str) else 0)
        if isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one
        if left < 0 or len(waiting) > LONGEST:
            raise _refuse("a value without end")


def _product(left: Any, right: Any) -> None:
    for one, other in ((left, right), (right, left)):
        if isinstance(other, int) and _size(one) * max(other, 0) > LONGEST:
            raise _refuse("a text or list")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > BITS:
        raise _refuse("a number")


def _power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * max(right, 0) > BITS:
        raise _refuse("a number")


def _sum(left: Any, right: Any) -> None:
    if _size(left) + _size(right) > LONGEST:
        raise _refuse("a text or list")


def _percent(left: Any, right: Any) -> None:
    if isinstance(left, str) and _WIDTH.search(left):
        raise _refuse("a width")


_OPERATORS: Mapping[str, Callable[[Any, Any], None]] = {"*": _product, "**": _power, "+": _sum, "%": _percent}


def _arguments(given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    for value in (*given, *named.values()):
        if isinstance(value, int) and abs(value) > LONGEST:
            raise _refuse("a number of columns or rounds")


def _text_work(name: str, text: str, given: tuple[Any, ...]) -> None:
    """What a method (or filter) of a text would make."""
    if name in ("format", "format_map") and _WIDTH.search(text):
        raise _refuse("a width")
    made = 0
    if name == "replace" and len(given) > 1 and isinstance(given[0], str) and isinstance(given[1], str):
        made = len(text) + text.count(given[0]) * len(given[1])
    if name == "join" and given and isinstance(given[0], list | tuple):
        made = sum(_size(part) + len(text) for part in given[0])
    if made > LONGEST:
        raise _refuse("a text")
    if name == "translate":
        raise _refuse("a table of letters")


class _Counting(NodeTransformer):
    """Puts a step into every loop, and a check before everything that is joined or written."""

    def _call(self, name: str, *given: nodes.Expr) -> nodes.Call:
        return nodes.Call(nodes.EnvironmentAttribute(name), list(given), [], None, None)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        node.body = [nodes.ExprStmt(self._call("step")), *node.body]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._call("joined", *node.nodes)

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [n if isinstance(n, nodes.TemplateData) else self._call("writes", n) for n in node.nodes]
        return node


class _Rendering(Template):
    def new_context(self, *given: Any, **named: Any) -> Context:
        _spent.steps = _spent.written = 0
        return super().new_context(*given, **named)


class _Filters(dict[str, Any]):
    """Every filter with its bounds, whenever it was added."""

    def get(self, name: str, default: Any = None) -> Any:
        """What the compiler asks, which works out filters of constants itself."""
        try:
            return self[name]
        except KeyError:
            return default

    def __getitem__(self, name: str) -> Any:
        inner = super().__getitem__(name)

        @functools.wraps(inner)
        def bounded(*given: Any, **named: Any) -> Any:
            _step()
            _arguments(given, named)
            texts = [value for value in given if isinstance(value, str | list | tuple)]
            if name in _WHOLE:
                for value in texts:
                    _weigh(value)
            elif name in ("replace", "format") and texts and isinstance(texts[0], str):
                _text_work(name, texts[0], tuple(texts[1:]))
            return _affordable(inner(*given, **named))

        return bounded


def _step() -> None:
    _spent.steps += 1
    if _spent.steps > STEPS:
        raise _refuse("steps")


def _affordable(value: Any) -> Any:
    if _size(value) > LONGEST:
        raise _refuse("a text or list")
    return value


class Bounded(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with an end to everything."""

    intercepted_binops = frozenset(_OPERATORS)
    template_class = _Rendering

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.filters = _Filters(self.filters)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            raise TemplateSyntaxError("a chat template stands alone", node.lineno, name, filename)
        made: nodes.Template = _Counting().visit(tree)
        made.set_environment(self)
        return made

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _OPERATORS[operator](left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        _step()
        _arguments(args, kwargs)
        owner = getattr(
            getattr(__obj, "__wrapped__", __obj), "__self__", None
        )  # the sandbox wraps ``format``
        if isinstance(owner, str):
            _text_work(getattr(__obj, "__name__", ""), owner, args)
        return _affordable(super().call(__context, __obj, *args, **kwargs))

    @staticmethod
    def step() -> str:
        """One round of a loop: ``call`` has counted it."""
        return ""

    @staticmethod
    def joined(*parts: Any) -> str:
        """The parts of ``a ~ b``."""
        _weigh(list(parts))
        return "".join(map(str, parts))

    @staticmethod
    def writes(value: Any) -> Any:
        """A value on its way into the text."""
        if isinstance(value, list | tuple | dict):
            _weigh(value)
        _spent.written += _size(value)
        if _spent.written > WRITTEN:
            raise _refuse("text")
        return value
