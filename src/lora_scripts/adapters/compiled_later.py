"""torch's compiler is loaded by those who use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any


@contextmanager
def compiled_later() -> Iterator[None]:
    """While it lasts ``torch.compile`` only promises: a function is compiled when it is called first.

    PEFT and Diffusers import bitsandbytes where it is installed, and bitsandbytes has functions compiled that
    most runs never call: that loads the compiler, a quarter of the seconds in which a run starts, and 40 MB.
    """
    import torch

    own: Any = torch.compile

    def promise(model: Any = None, **options: Any) -> Any:
        if model is None:
            return lambda given: promise(given, **options)
        return own(model, **options) if isinstance(model, torch.nn.Module) else _promised(own, model, options)

    torch.compile = promise
    try:
        yield
    finally:
        torch.compile = own


def _promised(own: Any, function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    compiled = cache(lambda: own(function, **options))

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return compiled()(*args, **kwargs)

    return call
