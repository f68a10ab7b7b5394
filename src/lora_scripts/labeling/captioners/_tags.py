"""The names that a tagger gives, from its ``selected_tags.csv``, and which of them its scores choose."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_scripts.core.problems import Location, Problem, ProblemsError

from .._captioner import Asked, Kind, Tag

if TYPE_CHECKING:
    import numpy as np

CATEGORIES: dict[str, Kind] = {
    "1": "character",
    "artist": "character",
    "3": "character",
    "copyright": "character",
    "4": "character",
    "character": "character",
    "9": "rating",
    "rating": "rating",
}
"""Categories that are not general, by Danbooru's number or by name: names of persons, works and artists count
as characters, since they need the same care."""
ORDER: dict[Kind, int] = {"character": 0, "general": 1, "rating": 2}
_FACE = re.compile(r"(?!.*[^\W_]{2})[^_]+_[^_]+")


@dataclass(frozen=True)
class Name:
    """One column of a tagger's scores."""

    text: str
    kind: Kind


def read_names(path: Path) -> list[Name]:
    """The rows of a ``selected_tags.csv`` with columns ``name`` and ``category``, in order.

    Raises ProblemsError LS3163 with the first line that is not such a row.
    """

    def wrong(line: int) -> ProblemsError:
        return ProblemsError(Problem("LS3163", {"path": str(path)}, Location(str(path), line)))

    names = []
    with open(path, encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle)
        try:
            if not {"name", "category"} <= set(reader.fieldnames or ()):
                raise wrong(1)
            for row in reader:
                name, category = row["name"], row["category"]
                if not name or category is None:
                    raise wrong(reader.line_num)
                names.append(Name(name, CATEGORIES.get(category.strip().lower(), "general")))
        except (csv.Error, UnicodeDecodeError) as error:
            raise wrong(reader.line_num + 1) from error
    if not names:
        raise wrong(1)
    return names


def spelled(name: str, keep_underscores: bool) -> str:
    """A tag with blanks, except faces such as ``^_^``, ``o_o`` and ``(o)_(o)``: those of two parts without
    two letters or digits side by side."""
    return name if keep_underscores or _FACE.fullmatch(name) else name.replace("_", " ")


def chosen(names: Sequence[Name], scores: np.ndarray, asked: Asked) -> tuple[Tag, ...]:
    """The tags whose ``scores`` (one for each name, 0 to 1) reach their threshold: characters, then the
    general ones, the surest first, then the likeliest rating where ratings are asked for."""
    least = {"general": asked.threshold, "character": asked.character_threshold}
    tags = [
        Tag(spelled(name.text, asked.keep_underscores), float(score), name.kind)
        for name, score in zip(names, scores, strict=True)
        if name.kind == "rating" or score >= least[name.kind]
    ]
    ratings = [tag for tag in tags if tag.kind == "rating"]
    kept = [tag for tag in tags if tag.kind != "rating"]
    if asked.rating and ratings:
        kept.append(max(ratings, key=lambda tag: tag.score))
    return tuple(sorted(kept, key=lambda tag: (ORDER[tag.kind], -tag.score)))
