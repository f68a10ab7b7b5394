"""A drawing order from start to files: base, LoRAs, prompts, seeds, strengths -> pictures and one sheet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.families._base import ImageFamily

from .inspect import inspect_file
from .loras import LoraChoice, parse_choice, put_on, set_strengths
from .pictures import check_size, make_pictures
from .sheets import contact_sheet

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from lora_scripts.families._base import ImageModel

Progress = Callable[[int, int], None]
"""Called with the number of the picture that is begun, and how many there are."""


@dataclass(frozen=True)
class Drawing:
    """``base``: None takes the one that the first LoRA's header names, else the embedded one.

    ``strengths``: numbers with commas; each multiplies the LoRAs' own strengths and gets a column.
    ``guidance``: by default the family's. ``quantization``: None takes what the LoRA whose base it is was
    trained with. ``output``: a ``.png`` for one picture or sheet, else a folder.
    """

    prompts: tuple[str, ...]
    base: str | None = None
    loras: tuple[str, ...] = ()
    negative: str = ""
    seed: int = 42
    count: int = 1
    steps: int = 25
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    strengths: str | None = None
    quantization: str | None = None
    output: Path = Path("output/pictures")


def parse_strengths(text: str | None) -> list[float]:
    """``0,0.4,0.8`` as numbers; ProblemsError LS4044 where one is none."""
    if text is None:
        return [1.0]
    numbers, problems = [], []
    for part in text.replace("，", ",").split(","):
        try:
            numbers.append(float(part))
        except ValueError:
            problems.append(Problem("LS4044", {"value": part.strip()}))
    if problems:
        raise ProblemsError(problems)
    return numbers


def device_and_dtype() -> tuple[str, torch.dtype]:
    """The first card in half precision, else the processor in full."""
    import torch

    if torch.cuda.is_available():
        return "cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return "cpu", torch.float32


def load_base(base: str | None, choices: list[LoraChoice], quantization: str | None = None) -> ImageModel:
    """The base to draw with: as asked, else as the first LoRA's own configuration says."""
    from lora_scripts.families._source import find, resolve

    said: dict[str, Any] = {}
    if base is None and choices:
        said = dict(inspect_file(choices[0].path).config or {})
    source = resolve(base or said.get("base_model") or "builtin:demo")
    device, dtype = device_and_dtype()
    family = find("auto", source)
    if family.sheet.task != "image-generation":
        told = {"path": source.name, "kind": family.sheet.named(), "command": "lora-scripts chat"}
        raise ProblemsError(Problem("LS4049", told))
    model = cast(ImageFamily, family).load(
        source,
        device=device,
        dtype=dtype,
        components=said.get("components") or None,
        prediction_type=said.get("prediction_type") or "auto",
        quantization=quantization or said.get("quantization") or "none",
    )
    model.clip_skip = said.get("clip_skip") or 1
    if said.get("zero_terminal_snr"):
        model.family.rescale(model)
    return model


def _description(
    order: Drawing, model: ImageModel, prompt: str, seed: int, factor: float, choices: list[LoraChoice]
) -> str:
    """What WebUIs write into a picture under ``parameters``, so that they read ours too."""
    marks = "".join(f" <lora:{c.path.stem}:{c.strength * factor:g}>" for c in choices)
    lines = [prompt + marks]
    if order.negative:
        lines.append(f"Negative prompt: {order.negative}")
    guidance = model.family.sheet.guidance if order.guidance is None else order.guidance
    sampler = model.family.sheet.sampler
    lines.append(f"Steps: {order.steps}, Sampler: {sampler}, CFG scale: {guidance:g}, Seed: {seed}")
    return "\n".join(lines)


def save(picture: Image, path: Path, parameters: str = "") -> Path:
    """Writes a PNG atomically, its description in the ``parameters`` text."""
    import io

    from PIL.PngImagePlugin import PngInfo

    from lora_scripts.core.files import write_atomic

    info = PngInfo()
    if parameters:
        info.add_itxt("parameters", parameters)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", pnginfo=info)
    write_atomic(path, stream.getvalue())
    return path


def draw(order: Drawing, progress: Progress | None = None) -> list[Path]:
    """Draws everything that ``order`` asks for; the files written, the sheet last.

    Raises ProblemsError for a base, LoRA, strength or size that cannot be used, before the first picture.
    """
    choices = [parse_choice(text) for text in order.loras]
    factors = parse_strengths(order.strengths)
    model = load_base(order.base, choices, order.quantization)
    side = model.description.resolution
    width, height = order.width or side, order.height or side
    check_size(model, width, height)
    pipe = model.family.pipeline(model)
    put_on(pipe, choices, model.family.load_lora)
    jobs = [(prompt, order.seed + number) for prompt in order.prompts for number in range(order.count)]
    total, done = len(jobs) * len(factors), 0
    columns: list[list[Image]] = []
    for factor in factors:
        set_strengths(pipe, choices, factor)
        columns.append(
            make_pictures(
                model,
                [prompt for prompt, _ in jobs],
                negative_prompt=order.negative,
                seed=[seed for _, seed in jobs],
                steps=order.steps,
                guidance_scale=order.guidance,
                width=width,
                height=height,
                pipe=pipe,
                progress=_onward(progress, done, total),
            )
        )
        done += len(jobs)
    rows = [list(row) for row in zip(*columns, strict=True)]
    return _write(order, model, jobs, factors, rows, choices)


def _onward(progress: Progress | None, done: int, total: int) -> Progress | None:
    return (lambda number, _: progress(done + number, total)) if progress else None


def _write(
    order: Drawing,
    model: ImageModel,
    jobs: list[tuple[str, int]],
    factors: list[float],
    rows: list[list[Image]],
    choices: list[LoraChoice],
) -> list[Path]:
    single = order.output.suffix.lower() == ".png"
    files: list[Path] = []
    if not single or len(jobs) * len(factors) == 1:
        for number, ((prompt, seed), row) in enumerate(zip(jobs, rows, strict=True), start=1):
            for factor, picture in zip(factors, row, strict=True):
                strength = f"-strength{factor:g}" if order.strengths else ""
                own = order.output / f"{number:04d}-seed{seed}{strength}.png"
                text = _description(order, model, prompt, seed, factor, choices)
                files.append(save(picture, order.output if single else own, text))
    if len(jobs) * len(factors) > 1:
        labels = [prompt if order.count == 1 else f"{prompt} ({seed})" for prompt, seed in jobs]
        heads = [f"{factor:g}" for factor in factors] if order.strengths else []
        sheet = contact_sheet(rows, rows=labels, columns=heads)
        files.append(save(sheet, order.output if single else order.output / "sheet.png"))
    return files
