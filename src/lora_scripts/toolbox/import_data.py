"""Another trainer's data sets as keys of ours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from .import_notes import Given, is_off

SIMPLE = ("caption_prefix", "caption_suffix", "shuffle_caption", "keep_tokens", "caption_dropout_rate")
"""Caption rules of the same name and meaning, each at the top or in a data set."""
WHOLE = {"random_flip": "flip_aug", "random_crop": "random_crop"}
"""Ours, for all pictures -> theirs, for a subset."""
SILENT = (
    "batch_size", "enable_bucket", "bucket_reso_steps", "min_bucket_reso", "max_bucket_reso",
    "bucket_no_upscale", "max_token_length", "resolution", "validation_split", "validation_seed",
    "enable_wildcard", "custom_attributes",
)  # fmt: skip
"""Of a data set: read elsewhere, or what is done here anyway."""
SUFFIXES = ("txt", "caption")


def sides(value: Any) -> tuple[int, int] | None:
    """``512``, ``"512,768"`` or ``[512, 768]`` as width and height in pixels."""
    parts = value if isinstance(value, list) else re.split(r"[,x ]+", str(value).strip())
    try:
        numbers = [round(float(part)) for part in parts if str(part).strip()]
    except ValueError:
        return None
    if not numbers or min(numbers) <= 0:
        return None
    return (numbers[0], numbers[1] if len(numbers) > 1 else numbers[0])


def side_of(value: Any, given: Given) -> int | None:
    """The side of the square of the same area, since a resolution is an area here; a multiple of 64."""
    found = sides(value)
    if found is None:
        given.lose("resolution", value)
        return None
    width, height = found
    if width == height:
        return width
    side = max(64, round(math.sqrt(width * height) / 64) * 64)
    given.change("import.resolution", given=f"{width}x{height}", side=side)
    return side


def captions(given: Given) -> dict[str, Any]:
    """The caption rules among ``given``."""
    found: dict[str, Any] = {}
    for name in SIMPLE:
        if (value := given.take(name)) is not None:
            found[name] = value
    if "keep_tokens" in found:
        found["keep_tokens"] = round(float(found["keep_tokens"]))
    if "caption_dropout_rate" in found:
        found["caption_dropout_rate"] = float(found["caption_dropout_rate"])
    if "shuffle_caption" in found:
        found["shuffle_caption"] = True
    ending = given.take("caption_extension", "caption_extention")
    if ending and str(ending).lstrip(".").lower() not in SUFFIXES:
        given.lose("caption_extension", ending)
    separator = given.take("keep_tokens_separator")
    if separator and separator != "|||":
        given.lose("keep_tokens_separator", separator)
    return found


def from_datasets(general: Mapping[str, Any], datasets: list[dict[str, Any]], notes: Given) -> dict[str, Any]:
    """Keys of ours for a dataset TOML; what is said nearer to a subset wins."""
    entries: list[dict[str, Any]] = []
    resolutions: list[int] = []
    batches: list[int] = []
    everywhere: dict[str, list[bool]] = {name: [] for name in WHOLE}
    lengths: list[int] = []
    masks = False
    for table in datasets:
        outer = {**general, **{name: value for name, value in table.items() if name != "subsets"}}
        side = side_of(outer["resolution"], notes) if "resolution" in outer else None
        if side and side not in resolutions:
            resolutions.append(side)
        batches.append(round(float(outer.get("batch_size", 1))))
        if outer.get("max_token_length"):
            lengths.append(int(outer["max_token_length"]))
        if is_off(outer.get("enable_bucket")):
            notes.change("import.buckets")
        for subset in table.get("subsets") or []:
            given = Given({**outer, **subset}, notes.notes)
            for ours, theirs in WHOLE.items():
                everywhere[ours].append(given.switch(theirs))
            masks = given.switch("alpha_mask") or masks
            entries.append(_entry(given))
            given.lose_rest(SILENT)
    found: dict[str, Any] = {}
    if resolutions:
        found["resolution"] = resolutions[0] if len(resolutions) == 1 else resolutions
    if batches:
        found["batch_size"] = batches[0]
        if len(set(batches)) > 1:
            notes.change("import.batches", sizes=", ".join(map(str, batches)), size=batches[0])
    if lengths:
        found["max_caption_tokens"] = max(lengths)
    for name, answers in everywhere.items():
        if any(answers):
            found[name] = True
            if not all(answers):
                notes.change("import.everywhere", name=name)
    if masks:
        found["loss_mask"] = "alpha"
    return found | _placed(entries)


def _entry(given: Given) -> dict[str, Any]:
    path = given.take("image_dir")
    entry: dict[str, Any] = {"path": str(path) if path else "."}
    if (table := given.take("metadata_file")) is not None:
        entry["metadata_path"] = str(table)
        given.change("import.metadata_file", name=str(table))
    if (repeats := given.whole("num_repeats")) and repeats > 1:
        entry["repeats"] = repeats
    if given.switch("is_reg"):
        entry["regularization"] = True
        given.change("import.regularization")
    if (words := given.take("class_tokens")) is not None:
        given.change("import.class_tokens", words=words)
    return entry | captions(given)


def _placed(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """One data set stands at the top of a configuration, several in a list."""
    if len(entries) == 1 and "regularization" not in entries[0]:
        (entry,) = entries
        place = {"train_data_dir": entry.pop("path")}
        return place | entry
    return {"datasets": entries} if entries else {}


def from_folders(given: Given) -> dict[str, Any]:
    """Keys of ours for the data that training settings name themselves: folders called ``10_name``."""
    found: dict[str, Any] = {}
    if (folder := given.take("train_data_dir")) is not None:
        found["train_data_dir"] = str(folder)
    if (folder := given.take("reg_data_dir")) is not None:
        found["datasets"] = [{"path": str(folder), "regularization": True}]
        given.change("import.regularization")
    if (repeats := given.whole("dataset_repeats")) and repeats > 1:
        found["repeats"] = repeats
    if (table := given.take("in_json")) is not None:
        given.lose("in_json", table)
    if (value := given.take("resolution", "max_resolution")) is not None and (side := side_of(value, given)):
        found["resolution"] = side
    for ours, theirs in WHOLE.items():
        if given.switch(theirs):
            found[ours] = True
    if given.switch("alpha_mask"):
        found["loss_mask"] = "alpha"
    if (folder := given.take("conditioning_data_dir")) is not None and given.switch("masked_loss"):
        found["loss_mask"] = str(folder)
    bucket = given.values.pop("enable_bucket", None)
    if bucket is not None and is_off(bucket):
        given.change("import.buckets")
    return found | captions(given)
