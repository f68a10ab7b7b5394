"""One picture ready to be learnt: what it is, where it goes, and what is said about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..core.seeds import derive_seed
from .buckets import Placement
from .manifest import Example
from .masks import Mask
from .pixels import Picture
from .wording import PLAIN, Wording


@dataclass(frozen=True)
class Handling:
    """What is done to the pictures of one data set besides learning them as they are.

    ``part``: put before their names where several folders are learnt from. ``weight``: how much their loss
    counts. ``flips``: half of the time mirrored. ``crops``: cut anywhere instead of in the middle. ``fixed``:
    held out, and so always in the same form.
    """

    wording: Wording = PLAIN
    part: str = ""
    weight: float = 1.0
    regularization: bool = False
    flips: bool = False
    crops: bool = False
    fixed: bool = False

    def captions(self, written: str) -> tuple[str, ...]:
        """Every wording in which a caption is learnt, the empty one included."""
        if self.fixed:
            return (self.wording.plain(written),)
        return (*self.wording.versions(written), *([""] if self.wording.dropout else []))


AS_IT_IS = Handling()
_CHANCES = 2**63
"""Values that ``derive_seed`` has."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture in one size, as it is learnt.

    ``caption`` and ``flipped`` say which of its wordings and sides is meant: the plain ones, until ``drawn``
    or ``views`` choose others. ``repeat``: which of its times in an epoch; ``size``: which of several
    resolutions; both from 0.
    """

    example: Example
    picture: Picture
    placement: Placement
    caption: str
    handling: Handling = AS_IT_IS
    mask: Mask | None = None
    repeat: int = 0
    repeats: int = 1
    size: int = 0
    flipped: bool = False

    @property
    def name(self) -> str:
        """The picture's path inside its data folder: the same on every machine."""
        return f"{self.handling.part}{self.example.fields['name']}"

    @property
    def key(self) -> str:
        """What random draws depend on: the picture's content, and which time and size it is."""
        more = (f"#{self.repeat}" if self.repeat else "") + (f"@{self.size}" if self.size else "")
        return self.picture.sha256 + more

    def _captions(self) -> tuple[str, ...]:
        return self.handling.wording.versions(str(self.example.fields["caption"]))

    def views(self) -> Iterator[Sample]:
        """Every form in which this sample may be learnt: all wordings, the empty one, the mirrored side."""
        if self.handling.fixed:
            yield self
            return
        captions = self.handling.captions(str(self.example.fields["caption"]))
        for caption in captions:
            yield replace(self, caption=caption)
        if self.handling.flips:
            yield replace(self, caption=captions[0], flipped=True)

    def drawn(self, seed: int) -> Sample:
        """The form that ``seed`` (of run, epoch and ``key``) chooses. Each choice has a draw of its own, so
        that none moves another."""
        handling, wording = self.handling, self.handling.wording
        sample = self
        if handling.fixed:
            return self
        if wording.dropout and derive_seed(seed, "dropout") < wording.dropout * _CHANCES:
            sample = replace(sample, caption="")
        elif wording.changes(str(self.example.fields["caption"])):
            captions = self._captions()
            sample = replace(sample, caption=captions[derive_seed(seed, "wording") % len(captions)])
        if handling.flips and derive_seed(seed, "flip") % 2:
            sample = replace(sample, flipped=True)
        if handling.crops:
            spare = self.placement.spare
            left, top = (
                derive_seed(seed, axis) % (room + 1)
                for axis, room in zip(("left", "top"), spare, strict=True)
            )
            sample = replace(sample, placement=replace(self.placement, crop=(left, top)))
        return sample
