"""One picture ready to be learnt: what it is, where it goes, and what is said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .buckets import Placement, place
from .manifest import Example
from .pixels import Picture


@dataclass(frozen=True)
class Sample:
    example: Example
    picture: Picture
    placement: Placement
    caption: str

    @property
    def name(self) -> str:
        """The picture's path inside its data folder: the same on every machine."""
        return str(self.example.fields["name"])


def samples_of(
    pictures: Sequence[tuple[Example, Picture]], *, resolution: int, step: int, upscale: bool = True
) -> list[Sample]:
    """A sample for each picture, ordered by name, so that the order of rows in a CSV changes nothing."""
    ordered = sorted(pictures, key=lambda pair: pair[0].fields["name"])
    sizes = [(picture.width, picture.height) for _, picture in ordered]
    placements = place(sizes, resolution=resolution, step=step, upscale=upscale)
    return [
        Sample(example, picture, placement, str(example.fields["caption"]))
        for (example, picture), placement in zip(ordered, placements, strict=True)
    ]
