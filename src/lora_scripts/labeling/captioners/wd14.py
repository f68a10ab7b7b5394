"""Taggers in ONNX files with a ``selected_tags.csv`` beside them, as SmilingWolf's WD14 and its kindred.

What such a model is fed follows from its input's shape. Pictures that end in their colours, (N, H, W, 3), are
BGR from 0 to 255, as all of SmilingWolf's files want. Pictures in planes, (N, 3, H, W), are the same unless a
file beside the model states a mean and a deviation: ``config.json`` of timm (``pretrained_cfg``; still BGR,
as those weights were trained so), ``preprocessor_config.json`` and ``preprocess.json`` (RGB).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Problem, ProblemsError

from .._captioner import Asked, Captioner, Words
from ._models import Files, locate, missing_package, stop
from ._tags import Name, chosen, read_names
from ._transformers_model import read_json

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

TITLE = "label.captioner.wd14"
DEFAULT_MODEL: str | None = "SmilingWolf/wd-swinv2-tagger-v3"
MODEL, NAMES = "model.onnx", "selected_tags.csv"
SETTINGS = ("config.json", "preprocessor_config.json", "preprocess.json")
SIDE = 448
"""Pixels of a model's input where its shape does not say."""
ON_CPU, ON_CARD = 4, 16
"""Pictures at a time where the model takes any number."""


def _choose(names: Iterable[str]) -> list[str]:
    return [name for name in names if name in {NAMES, *SETTINGS} or name.startswith(MODEL)]


def _whole(folder: Path) -> bool:
    return (folder / MODEL).is_file() and (folder / NAMES).is_file()


FILES = Files(_choose, _whole, (f"{MODEL}*", NAMES, *SETTINGS))


@dataclass(frozen=True)
class Input:
    """How pictures are put before a model: ``batch`` None takes any number; ``mean`` and ``deviation`` of
    each colour on the scale from 0 to 1, None for values from 0 to 255."""

    name: str
    batch: int | None
    height: int
    width: int
    planes: bool
    dtype: str
    rgb: bool = False
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    def pixels(self, picture: Image) -> np.ndarray:
        """One picture on a white square, resized: (H, W, 3), or (3, H, W) in planes."""
        import numpy as np
        from PIL import Image as Images

        side = max(picture.size)
        square = Images.new("RGB", (side, side), "white")
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        if square.size != (self.width, self.height):
            square = square.resize((self.width, self.height), Images.Resampling.BICUBIC)
        values = np.asarray(square, dtype=np.float32)
        if self.mean is not None and self.deviation is not None:
            mean, deviation = (np.asarray(v, np.float32) for v in (self.mean, self.deviation))
            values = (values / np.float32(255) - mean) / deviation
        if not self.rgb:
            values = values[:, :, ::-1]
        return np.ascontiguousarray(values.transpose(2, 0, 1) if self.planes else values, dtype=self.dtype)


def _normalising(folder: Path) -> tuple[bool, Any, Any]:
    """(colours are RGB, mean, deviation) as a file beside the model says."""
    stages = [read_json(folder / "preprocess.json").get("stages")]
    told = [
        read_json(folder / "preprocessor_config.json"),
        *(s for s in stages[0] or [] if isinstance(s, Mapping)),
    ]
    for entry in told:
        mean = entry.get("image_mean", entry.get("mean"))
        deviation = entry.get("image_std", entry.get("std"))
        if mean and deviation:
            return True, tuple(mean), tuple(deviation)
    timm = read_json(folder / "config.json").get("pretrained_cfg")
    if isinstance(timm, Mapping) and timm.get("mean") and timm.get("std"):
        return False, tuple(timm["mean"]), tuple(timm["std"])
    return False, None, None


DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


def read_input(path: Path, node: Any) -> Input:
    """From a model's first input; ProblemsError LS3164 where that is no picture."""
    shape = list(node.shape)
    if len(shape) != 4 or 3 not in (shape[1], shape[3]) or node.type not in DTYPES:
        raise stop("LS3164", path, reason=f"{node.name}: {node.type} {shape}")
    planes = shape[3] != 3
    size = shape[2:] if planes else shape[1:3]
    height, width = (n if isinstance(n, int) and n > 0 else SIDE for n in size)
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
    form = Input(node.name, batch, height, width, planes, DTYPES[node.type])
    if not planes:
        return form
    rgb, mean, deviation = _normalising(path.parent)
    return Input(node.name, batch, height, width, planes, DTYPES[node.type], rgb, mean, deviation)


class Tagger:
    def __init__(self, session: Any, path: Path, names: Sequence[Name], asked: Asked) -> None:
        self.session, self.path, self.names, self.asked = session, path, names, asked
        self.input = read_input(path, session.get_inputs()[0])
        self.output = self._output(path)
        on_card = session.get_providers()[0] != "CPUExecutionProvider"
        self.batch_size = self.input.batch or asked.batch_size or (ON_CARD if on_card else ON_CPU)
        self.raw = self._gives_raw_scores()

    def _output(self, path: Path) -> str:
        """The output with one score for each name; of several, the one that is not raw."""
        outputs = self.session.get_outputs()
        fitting = [out for out in outputs if out.shape and out.shape[-1] == len(self.names)]
        fitting = fitting or [out for out in outputs if out.shape and not isinstance(out.shape[-1], int)]
        if not fitting:
            widths = ", ".join(str(out.shape[-1]) for out in outputs if out.shape) or "?"
            raise stop("LS3165", path, names=len(self.names), scores=widths)
        return str(min(fitting, key=lambda out: "logit" in out.name).name)

    def _gives_raw_scores(self) -> bool:
        """Whether scores are no probabilities yet, which a white picture shows: settled once, so that it does
        not depend on the pictures."""
        from PIL import Image as Images

        scores = self._scores([Images.new("RGB", (self.input.width, self.input.height), "white")])
        return bool(scores.min() < -1e-3 or scores.max() > 1 + 1e-3)

    def describe(self, pictures: Sequence[Image]) -> list[Words]:
        import numpy as np

        scores = self._scores(pictures)
        if self.raw:
            scores = 1 / (1 + np.exp(-scores.astype(np.float64)))
        return [Words(tags=chosen(self.names, row, self.asked)) for row in scores]

    def _scores(self, pictures: Sequence[Image]) -> Any:
        """What the model gives: (pictures, names)."""
        import numpy as np

        pixels = np.stack([self.input.pixels(picture) for picture in pictures])
        size = self.input.batch or len(pixels)
        scores = []
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            short = size - len(part)
            filled = np.concatenate([part, np.zeros((short, *part.shape[1:]), part.dtype)]) if short else part
            with _computing(self.path):
                found = self.session.run([self.output], {self.input.name: filled})[0]
            scores.append(np.asarray(found, dtype=np.float32)[: len(part)])
        return np.concatenate(scores)

    def close(self) -> None:
        self.session = None


def load(asked: Asked) -> Captioner:
    """Raises ProblemsError LS3150 to LS3152, LS3162 to LS3166: model or package cannot be had or used."""
    path = locate(asked.model or str(DEFAULT_MODEL), FILES)
    if path.is_dir():
        path = path / MODEL
    names = path.with_name(NAMES)
    for file in (path, names):
        if not file.is_file():
            raise stop("LS3162", path.parent, name=file.name, instead=DEFAULT_MODEL)
    return Tagger(_session(path, asked), path, read_names(names), asked)


def _session(path: Path, asked: Asked) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime") from error
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(4)
    card, there = "CUDAExecutionProvider", onnxruntime.get_available_providers()
    if asked.device.startswith("cuda") and card not in there:
        raise ProblemsError(Problem("LS3166", {"device": asked.device, "known": "cpu"}))
    providers = [card] if card in there and asked.device in ("auto", "cuda") else []
    with _computing(path):
        return onnxruntime.InferenceSession(str(path), providers=[*providers, "CPUExecutionProvider"])


@contextmanager
def _computing(path: Path) -> Iterator[None]:
    """What onnxruntime raises becomes LS3164, and a full memory ``MemoryError``."""
    from onnxruntime.capi import onnxruntime_pybind11_state as raised

    try:
        yield
    except (
        raised.Fail,
        raised.InvalidArgument,
        raised.InvalidGraph,
        raised.InvalidProtobuf,
        raised.NoSuchFile,
        raised.NotImplemented,
        raised.RuntimeException,
    ) as error:
        reason = str(error).strip().splitlines()[0][:300]
        if "allocate" in reason.lower():
            raise MemoryError(reason) from error
        raise stop("LS3164", path, reason=reason) from error
