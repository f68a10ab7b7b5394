"""Defects that are put into the product on purpose: a fuzz run that does not find them finds nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Plant:
    """``kind``: of input in which it shows; ``sow`` changes the product in this process; ``sign``: what a
    failure then begins with."""

    kind: str
    sow: Callable[[], None]
    sign: str


def _swallowed_typo() -> None:
    """Keys that nobody knows are passed over, as five of nine trainers do."""
    from lora_scripts.config import load
    from lora_scripts.config.schema import RunConfig

    read = load.read_document

    def lenient(path: Any, problems: Any) -> Any:
        document = read(path, problems)
        document.values = {
            key: value for key, value in document.values.items() if key in RunConfig.model_fields
        }
        return document

    load.read_document = lenient


def _traceback() -> None:
    """A parser's own error reaches the user."""
    from lora_scripts.data import json_rows

    class Strict:
        def decode(self, text: str) -> Any:
            import json

            try:
                return json.loads(text)
            except ValueError as error:
                raise KeyError(str(error)) from error

        raw_decode = json_rows._DECODER.raw_decode

    json_rows._DECODER = Strict()  # type: ignore[assignment]


def _lenient_pictures() -> None:
    """Half a picture is filled up with grey."""
    from PIL import ImageFile

    ImageFile.LOAD_TRUNCATED_IMAGES = True


def _swallowed_row() -> None:
    """A bad row is left out without a word."""
    from lora_scripts.data.row_faults import Findings

    Findings.add = lambda *_, **__: None  # type: ignore[method-assign]


def _trusted_header() -> None:
    """The table of a weights file is believed."""
    from lora_scripts.families import _header

    _header.check_table = lambda table: table.pop("__metadata__", {})  # type: ignore[attr-defined]


def _no_remedy() -> None:
    from lora_scripts.core import catalogue

    fix = catalogue.fix
    from . import case

    case.fix = lambda problem, lang=None: "" if problem.code == "LS1016" else fix(problem, lang)  # type: ignore[attr-defined]


def _hang() -> None:
    """A strip of a picture is looked at for ever."""
    from lora_scripts.data import pixels

    judged = pixels.has_grey_tail

    def endless(image: Any) -> bool:
        while image.size == (8, 10_000):
            image.getpixel((0, 0))
        return judged(image)

    pixels.has_grey_tail = endless


def _hunger() -> None:
    """A table is unfolded as large as it says."""
    from lora_scripts.toolbox import inspect

    read = inspect.read_header

    def hungry(path: Any) -> Any:
        header = read(path)
        if "vae" in str(inspect.signature(header.shapes)):
            bytearray(1_200_000_000)[::4096]
        return header

    inspect.read_header = hungry


PLANTS = {
    "swallowed-typo": Plant("configs", _swallowed_typo, "swallowed"),
    "no-remedy": Plant("configs", _no_remedy, "no remedy"),
    "traceback": Plant("rows", _traceback, "KeyError"),
    "swallowed-row": Plant("rows", _swallowed_row, "rows lost in silence"),
    "lenient-pictures": Plant("pictures", _lenient_pictures, "swallowed"),
    "hang": Plant("pictures", _hang, "hang"),
    "trusted-header": Plant("headers", _trusted_header, "we take its header"),
    "hunger": Plant("headers", _hunger, "memory"),
}
