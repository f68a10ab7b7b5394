"""Which rows are held out, and which ones the two sides share: in arrays, for a million rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lora_scripts.data.split import AUTO_FROM, AUTO_SHARE, held_out_count
from lora_scripts.data.token_table import TokenTable

AUTO_MOST = 64
"""Rows held out at most without being asked: enough for an error of a few percent, read in seconds."""


@dataclass(frozen=True)
class Repeats:
    """Row numbers. ``again``: rows whose like came before; ``leaked``: held-out rows that are also trained
    on; ``prompted``: held-out rows whose prompt is."""

    again: np.ndarray
    leaked: np.ndarray
    prompted: np.ndarray


def examples_of(table: TokenTable) -> np.ndarray:
    """(n,) int64: the example that each row came from, counted from 0; rows of one lie on one side."""
    places = table.file_numbers.astype(np.int64) << 32 | table.lines.astype(np.int64)
    return np.unique(places, return_inverse=True)[1].reshape(-1)


def hold_out(
    table: TokenTable, prompts: np.ndarray, share: float | Literal["auto"]
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to train on and to hold out, each ascending.

    Examples are chosen by content, whatever their order and names. Those that occur twice, or share their
    prompt with another, come last: their twin would be trained on.
    """
    everything = np.arange(len(table))
    examples = examples_of(table)
    count = int(examples.max()) + 1 if len(examples) else 0
    if share == "auto":
        wanted = min(AUTO_MOST, max(1, round(count * AUTO_SHARE))) if count >= AUTO_FROM else 0
    else:
        wanted = held_out_count(count, share)
    if not wanted:
        return everything, everything[:0]
    keys = table.keys
    twice = _shared(keys, examples) | (_shared(prompts, examples) & (prompts != 0))
    order = np.lexsort((keys, examples))
    firsts = order[np.concatenate(([True], np.diff(examples[order]) > 0))]
    doubled = np.bincount(examples, weights=twice, minlength=count) > 0
    chosen = np.lexsort((keys[firsts], doubled))[:wanted]
    held = np.isin(examples, chosen)
    return everything[~held], everything[held]


def _shared(values: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """(n,) bool: whether another example has the same value."""
    number = np.unique(values, return_inverse=True)[1].reshape(-1)
    lowest = np.full(number.max(initial=0) + 1, np.iinfo(np.int64).max)
    highest = np.full(number.max(initial=0) + 1, -1)
    np.minimum.at(lowest, number, examples)
    np.maximum.at(highest, number, examples)
    shared: np.ndarray = (lowest != highest)[number]
    return shared


def repeats_of(table: TokenTable, prompts: np.ndarray, train: np.ndarray, held: np.ndarray) -> Repeats:
    keys = table.keys
    first = np.unique(keys[train], return_index=True)[1]
    again = np.ones(len(train), np.bool_)
    again[first] = False
    leaked = np.isin(keys[held], keys[train])
    asked = np.isin(prompts[held], prompts[train]) & (prompts[held] != 0) & ~leaked
    return Repeats(train[again], held[leaked], held[asked])
