"""Looking at pictures and captions as a training run would, and at what a run would not notice."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from PIL import Image

from ..core.problems import Location, Problem, Severity, errors
from ..data.captions import contains, is_empty
from ..data.folder import PictureFolder
from ..data.images import examine as decode_all
from ..data.manifest import Example, Manifest, read_pictures
from ..data.pixels import Picture
from ..data.plan import Plan
from ..data.sample import Handling, Sample
from ..data.samples import samples_of
from ..families._clip import cutter
from .alike import find_alike
from .looks import SIDE, look_at
from .report import BucketCount, Finding, Item, Report, Settings
from .words import MOST, caption_of, frequencies, look_at_words

Progress = Callable[[str, int, int], None]
Pair = tuple[Example, Picture]
ENLARGED = 2.0
"""Linear enlargement from which a picture is tiny: what is learnt then is the blur of the enlargement."""
CROPPED = 0.25
"""Share of a picture's area from which a crop is worth a word."""
SMALL_SET = 0.9
"""Share of tiny pictures from which the set is small by nature, and its training size the thing to choose."""
_SAID_APART = {"LS2023", "LS2036", "LS2037", "LS2066", "LS2410"}
"""What a training run says too, and has a finding with pictures here."""
_GRAVITY: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass
class _Set:
    """The pictures of one folder: those with a caption first, then those that no row names."""

    folder: Path
    settings: Settings
    progress: Progress | None
    manifest: Manifest
    bare: tuple[Example, ...]
    pairs: Sequence[Pair] = ()
    problems: list[Problem] = field(default_factory=list)
    bad: list[tuple[Example, Problem]] = field(default_factory=list)
    softness: dict[str, float] = field(default_factory=dict)
    grey: np.ndarray = field(default_factory=lambda: np.zeros((0, SIDE, SIDE), np.uint8))

    @classmethod
    def read(cls, folder: Path, settings: Settings, progress: Progress | None) -> _Set:
        manifest = read_pictures(folder, settings.metadata, strict=settings.strict, exclude=settings.exclude)
        named = {example.fields["name"] for example in manifest.examples}
        scanned = PictureFolder.scan(folder, settings.exclude) if folder.is_dir() else PictureFolder(folder)
        bare = [
            Example({"image": path, "name": name, "caption": ""}, Location(str(path)))
            for written, path in scanned.pictures.items()
            if (name := unicodedata.normalize("NFC", written)) not in named
        ]
        return cls(folder, settings, progress, manifest, tuple(bare))

    def decode(self) -> None:
        """Decodes everything once, in threads; a kilobyte of each picture is kept."""
        examples = (*self.manifest.examples, *self.bare)
        grey = np.zeros((len(examples), SIDE, SIDE), np.uint8)
        soft = np.full(len(examples), np.nan)

        def visit(number: int, image: Image.Image) -> None:
            look = look_at(image)
            grey[number] = look.grey
            soft[number] = np.nan if look.softness is None else look.softness

        settings, progress = self.settings, self.progress
        tell = (lambda done, total: progress("pictures", done, total)) if progress else None
        pairs, said = decode_all(
            examples,
            background=settings.background,
            on_bad=cast(Literal["stop", "skip"], settings.on_bad),
            on_animation=cast(Literal["first", "skip"], settings.on_animation),
            progress=tell,
            visit=visit,
        )
        where = {id(example): number for number, example in enumerate(examples)}
        places = [where[id(example)] for example, _ in pairs]
        self.pairs, self.grey = pairs, grey[places]
        self.softness = {
            str(example.fields["name"]): float(soft[place])
            for (example, _), place in zip(pairs, places, strict=True)
        }
        self._sort(said)

    def _sort(self, said: Sequence[Problem]) -> None:
        """A file that no row names stops no run, whatever is wrong with it."""
        by_path = {str(example.fields["image"]): example for example in (*self.manifest.examples, *self.bare)}
        bare = {str(example.fields["image"]) for example in self.bare}
        for problem in said:
            file = problem.where.file if problem.where else ""
            if file in by_path:
                if file in bare:
                    problem = Problem(problem.code, problem.params, problem.where, "warning")
                self.bad.append((by_path[file], problem))
            self.problems.append(problem)

    @property
    def learnt(self) -> list[Pair]:
        bare = {id(example) for example in self.bare}
        return [pair for pair in self.pairs if id(pair[0]) not in bare]


def examine(folder: Path, *, settings: Settings | None = None, progress: Progress | None = None) -> Report:
    """Everything that is worth saying about the pictures and captions in ``folder``; changes nothing.

    Raises nothing for bad data: it is in ``Report.findings``, and what stops a run in ``Report.problems``.
    ``progress`` gets (phase, done, total) in the calling thread; an exception that it raises ends the work.
    """
    settings = settings or Settings()
    data = _Set.read(folder, settings, progress)
    data.decode()
    learnt = data.learnt
    handling = Handling(wording=settings.wording)
    samples = samples_of(
        learnt or data.pairs,
        resolution=settings.resolution,
        step=settings.step,
        handling=handling,
        repeats=settings.repeats,
    )
    found = _files(data) + _shapes(samples, settings, data.softness) + _twice(data)
    said, tokens = look_at_words(
        [example for example, _ in learnt],
        cutter(),
        settings.wording,
        trigger=settings.trigger,
        limit=settings.max_caption_tokens,
    )
    found += _uncaptioned(data) + said
    captions = [caption_of(example) for example, _ in learnt]
    words, as_tags = frequencies(captions)
    shapes = [sample.placement.bucket for sample in samples for _ in range(sample.repeats)]
    wanted = settings.trigger or settings.wording.trigger
    return Report(
        folder=folder,
        source=data.manifest.source,
        settings=settings,
        named=len(data.manifest.examples) + len(data.bare),
        usable=len(data.pairs),
        captioned=sum(not is_empty(caption) for caption in captions),
        findings=tuple(sorted(found, key=lambda finding: _GRAVITY.index(finding.severity))),
        buckets=tuple(
            BucketCount(shape.width, shape.height, count)
            for shape, count in sorted(Counter(shapes).items(), key=lambda each: (-each[1], each[0]))
        ),
        windows=Plan(shapes, settings.batch_size, settings.accumulation).windows_per_epoch if shapes else 0,
        words=tuple(sorted(words.items(), key=lambda each: (-each[1], each[0]))[:MOST]),
        as_tags=as_tags,
        different_words=len(words),
        tokens=(max(tokens, default=0), settings.max_caption_tokens),
        with_trigger=sum(contains(caption, wanted) for caption in captions) if wanted else 0,
        problems=(*data.manifest.problems, *data.problems),
    )


def _item(pair: Pair, **facts: Any) -> Item:
    example, picture = pair
    return Item(str(example.fields["name"]), picture.path, picture.width, picture.height, facts)


def _files(data: _Set) -> list[Finding]:
    found = []
    if data.bad:
        gravest: Severity = "error" if errors(problem for _, problem in data.bad) else "warning"
        items = [
            Item(str(example.fields["name"]), example.fields["image"], problem=problem)
            for example, problem in data.bad
        ]
        told = {"count": len(items)}
        problem = Problem("LS3200", told, severity=gravest)
        found.append(Finding("unreadable", problem, tuple((item,) for item in items)))
    rest = [
        problem
        for problem in (*data.manifest.problems, *data.problems)
        if problem.code not in _SAID_APART and problem not in [bad for _, bad in data.bad]
    ]
    for severity in _GRAVITY:
        said = [problem for problem in rest if problem.severity == severity]
        items = [Item(str(problem.where or ""), problem=problem) for problem in said]
        if items:
            problem = Problem("LS3214", {"count": len(items)}, severity=severity)
            found.append(Finding("reader", problem, tuple((item,) for item in items)))
    damaged = [_item(pair) for pair in data.pairs if "LS2410" in pair[1].notes]
    if damaged:
        problem = Problem("LS3201", {"count": len(damaged)}, severity="warning")
        found.append(Finding("damaged", problem, tuple((item,) for item in damaged)))
    turned = [_item(pair) for pair in data.pairs if pair[1].turned]
    if turned:
        problem = Problem("LS3208", {"count": len(turned)}, severity="note")
        found.append(Finding("turned", problem, tuple((item,) for item in turned)))
    return found


def _shapes(samples: Sequence[Sample], settings: Settings, softness: dict[str, float]) -> list[Finding]:
    def item(sample: Sample, **facts: Any) -> tuple[Item]:
        return (_item((sample.example, sample.picture), **facts),)

    found = []
    larger = {sample.name: sample.placement.resize[0] / sample.picture.width for sample in samples}
    tiny = [sample for sample in samples if larger[sample.name] >= ENLARGED]
    if tiny:
        told = {"count": len(tiny), "resolution": settings.resolution}
        ordered = sorted(tiny, key=lambda sample: -larger[sample.name])
        if len(tiny) >= SMALL_SET * len(samples):
            areas = [sample.picture.width * sample.picture.height for sample in tiny]
            told["side"] = max(64, int(float(np.median(areas)) ** 0.5) // 64 * 64)
            problem = Problem("LS3213", told, severity="note")
        else:
            problem = Problem("LS3202", told, severity="warning")
        groups = tuple(item(sample, enlarged=f"{larger[sample.name]:.1f}") for sample in ordered)
        found.append(Finding("tiny", problem, groups))
    blurred = [sample for sample in samples if softness[str(sample.example.fields["name"])] >= 1]
    if blurred:
        ordered = sorted(blurred, key=lambda sample: -softness[str(sample.example.fields["name"])])
        problem = Problem("LS3203", {"count": len(blurred)}, severity="warning")
        groups = tuple(
            item(each, softness=f"{softness[str(each.example.fields['name'])]:.1f}") for each in ordered
        )
        found.append(Finding("blurred", problem, groups))
    cut = [sample for sample in samples if sample.placement.lost > CROPPED]
    if cut:
        told = {"count": len(cut), "share": round(CROPPED * 100)}
        groups = tuple(
            item(each, lost_area=round(each.placement.lost * 100), bucket=str(each.placement.bucket))
            for each in sorted(cut, key=lambda sample: -sample.placement.lost)
        )
        found.append(Finding("aspect", Problem("LS3207", told, severity="warning"), groups))
    return found


def _twice(data: _Set) -> list[Finding]:
    pictures = [picture for _, picture in data.pairs]
    alike = find_alike(
        pictures,
        data.grey,
        background=data.settings.background,
        crops=data.settings.crops,
        progress=data.progress,
    )
    soft = [data.softness[str(example.fields["name"])] for example, _ in data.pairs]
    found = []
    if alike.copies:
        best = [
            sorted(group, key=lambda place: _worse(pictures[place], soft[place])) for group in alike.copies
        ]
        groups = tuple(
            tuple(
                _item(data.pairs[place], exact=True)
                if place != group[0] and pictures[place].sha256 == pictures[group[0]].sha256
                else _item(data.pairs[place])
                for place in group
            )
            for group in best
        )
        told = {"count": len(groups), "extra": sum(len(group) - 1 for group in groups)}
        found.append(Finding("duplicates", Problem("LS3204", told, severity="warning"), groups))
    if alike.mirrored:
        groups = tuple(tuple(_item(data.pairs[place]) for place in pair) for pair in alike.mirrored)
        problem = Problem("LS3205", {"count": len(groups)}, severity="warning")
        found.append(Finding("mirrored", problem, groups))
    if alike.crops:
        groups = tuple(
            (_item(data.pairs[one]), _item(data.pairs[other], shows=round(share * 100)))
            for one, other, share in alike.crops
        )
        problem = Problem("LS3206", {"count": len(groups)}, severity="warning")
        found.append(Finding("crops", problem, groups))
    return found


def _worse(picture: Picture, softness: float) -> tuple[int, float]:
    """The copy to keep comes first: the largest, and of equals the sharpest."""
    return -picture.width * picture.height, 0.0 if np.isnan(softness) else softness


def _uncaptioned(data: _Set) -> list[Finding]:
    """Pictures that no row or caption file speaks of. Unreadable ones are told elsewhere."""
    told = [problem for problem in data.manifest.problems if problem.code in ("LS2023", "LS2036")]
    readable = {id(example) for example, _ in data.pairs}
    items = [
        (Item(str(each.fields["name"]), each.fields["image"]),) for each in data.bare if id(each) in readable
    ]
    if not told or not items:
        return []
    problem = Problem("LS3215", {"count": len(items)}, severity=told[0].severity)
    return [Finding("uncaptioned", problem, tuple(items))]
