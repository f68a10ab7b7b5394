"""``lora-scripts label``, which ``tools/auto_label.py`` is: captions for a folder of pictures."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_scripts.core.catalogue import say

if TYPE_CHECKING:
    from rich.console import Console

    from lora_scripts.labeling.choose import Choice
    from lora_scripts.labeling.label import Report
    from lora_scripts.labeling.phrasing import Phrasing

FORMATS = ("csv", "jsonl", "txt")
DTYPES = ("auto", "fp32", "fp16", "bf16")
BAD_PICTURES, TERMINATED = 3, 143


def label(
    input_: Annotated[Path, typer.Option("--input", "-i", help=say("label.input"))],
    output: Annotated[Path | None, typer.Option("--output", "-o", help=say("label.output"))] = None,
    captioner: Annotated[str, typer.Option("--captioner", help=say("label.captioner"))] = "blip",
    model: Annotated[list[str] | None, typer.Option("--model", help=say("label.model"))] = None,
    format_: Annotated[str | None, typer.Option("--format", help=say("label.format"))] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=say("label.overwrite"))] = False,
    overwrite_edited: Annotated[
        bool, typer.Option("--overwrite-edited", help=say("label.overwrite_edited"))
    ] = False,
    append: Annotated[bool, typer.Option("--append", help=say("label.append"))] = False,
    prepend: Annotated[bool, typer.Option("--prepend", help=say("label.prepend"))] = False,
    trigger: Annotated[str, typer.Option("--trigger", help=say("label.trigger"))] = "",
    template: Annotated[str | None, typer.Option("--template", help=say("label.template"))] = None,
    replace: Annotated[list[str] | None, typer.Option("--replace", help=say("label.replace"))] = None,
    blacklist: Annotated[list[str] | None, typer.Option("--blacklist", help=say("label.blacklist"))] = None,
    min_tokens: Annotated[
        int | None, typer.Option("--min-tokens", min=1, help=say("label.min_tokens"))
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=2, help=say("label.max_tokens"))
    ] = None,
    no_header: Annotated[bool, typer.Option("--no-header", help=say("label.no_header"))] = False,
    excel: Annotated[bool, typer.Option("--excel", help=say("label.excel"))] = False,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help=say("label.batch_size"))
    ] = None,
    device: Annotated[str, typer.Option("--device", help=say("label.device"))] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help=say("label.dtype"))] = "auto",
    instruction: Annotated[str | None, typer.Option("--instruction", help=say("label.instruction"))] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, max=4096, help=say("label.max_new_tokens"))
    ] = 75,
    beams: Annotated[int, typer.Option("--beams", min=1, max=32, help=say("label.beams"))] = 1,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help=say("label.threshold"))
    ] = 0.35,
    character_threshold: Annotated[
        float, typer.Option("--character-threshold", min=0, max=1, help=say("label.character_threshold"))
    ] = 0.85,
    rating: Annotated[bool, typer.Option("--rating", help=say("label.rating"))] = False,
    keep_underscores: Annotated[
        bool, typer.Option("--keep-underscores", help=say("label.keep_underscores"))
    ] = False,
    url: Annotated[str | None, typer.Option("--url", help=say("label.url"))] = None,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help=say("label.allow_remote"))] = False,
    no_check: Annotated[bool, typer.Option("--no-check", help=say("label.no_check"))] = False,
) -> int:
    from rich.console import Console

    from lora_scripts.labeling._captioner import Asked
    from lora_scripts.labeling.label import Job, Watch
    from lora_scripts.labeling.label import label as caption

    from .progress import rate_bar

    pictures = input_.expanduser()
    if dtype not in DTYPES:
        raise _bad("--dtype", say("label.value", known=", ".join(DTYPES)))
    if append + prepend + overwrite > 1:
        raise _bad("--append", say("label.both"))
    if overwrite_edited and not overwrite:
        raise _bad("--overwrite-edited", say("label.edited.alone"))
    if min_tokens is not None and max_tokens is not None and min_tokens > max_tokens:
        raise _bad("--min-tokens", say("label.tokens.order"))
    format_name, file = _place(pictures, output.expanduser() if output else None, format_)
    chosen = _chosen(captioner, model or [])
    job = Job(
        pictures=pictures,
        chosen=chosen,
        output=file,
        format=format_name,
        asked=Asked(
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            beams=beams,
            instruction=instruction,
            threshold=threshold,
            character_threshold=character_threshold,
            rating=rating,
            keep_underscores=keep_underscores,
            url=url,
            allow_remote=allow_remote,
        ),
        phrasing=_phrasing(chosen, trigger, template, replace, blacklist, min_tokens, max_tokens),
        existing="append" if append else "prepend" if prepend else "overwrite" if overwrite else "keep",
        edited=overwrite_edited,
        header=not no_header,
        excel=excel,
    )
    if url and allow_remote:
        typer.echo(say("label.remote", url=url.rpartition("@")[2]))
    console = Console(emoji=False)
    try:
        with _ends_on_sigterm(), rate_bar(console) as progress:
            report = caption(job, Watch(progress, _teller(console)))
    except (KeyboardInterrupt, SystemExit):
        typer.echo(say("label.left"), err=True)
        raise
    code = _tell(report, pictures)
    if not no_check and report.made + report.kept:
        _look_over(report, pictures, trigger.strip() or None)
    return code


def _teller(console: Console) -> Callable[[str], None]:
    return lambda sentence: console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _bad(option: str, sentence: str) -> typer.BadParameter:
    return typer.BadParameter(sentence, param_hint=option)


def _place(pictures: Path, output: Path | None, format_: str | None) -> tuple[Any, Path | None]:
    """The format, and the file (None: the usual one among the pictures)."""
    if format_ is not None and format_ not in FORMATS:
        raise _bad("--format", say("label.value", known=", ".join(FORMATS)))
    if format_ == "txt":
        if output is not None and output.resolve() != pictures.resolve():
            raise _bad("--output", say("label.output.txt"))
        return "txt", None
    if output is None:
        return format_ or "csv", None
    suffix = output.suffix.lower().removeprefix(".")
    if output.is_dir():
        raise _bad("--output", say("label.output.folder", name=output))
    if format_ is None and suffix not in ("csv", "jsonl"):
        raise _bad("--output", say("label.output.suffix", name=output.name))
    if format_ is not None and suffix != format_:
        raise _bad("--output", say("label.output.format", name=output.name, format=format_))
    return suffix, output


def _chosen(captioner: str, models: list[str]) -> tuple[Choice, ...]:
    from lora_scripts.labeling.choose import Unknown, choices

    try:
        return tuple(choices(captioner, models))
    except Unknown as wrong:
        known = ", ".join(wrong.known)
        if wrong.near:
            sentence = say("label.known.near", name=wrong.name, near=wrong.near, known=known)
        else:
            sentence = say("label.known", known=known)
        raise _bad("--captioner", sentence) from None


def _phrasing(
    chosen: tuple[Choice, ...],
    trigger: str,
    template: str | None,
    replace: list[str] | None,
    blacklist: list[str] | None,
    least: int | None,
    most: int | None,
) -> Phrasing:
    from lora_scripts.families._clip import cutter
    from lora_scripts.labeling.phrasing import BadTemplate, Phrasing, check_template, listed, pairs

    looks_at_nothing = [choice.template for choice in chosen if choice.template]
    silent = len(looks_at_nothing) == len(chosen)
    if template is None:
        template = looks_at_nothing[0] if silent else "{caption}"
    try:
        fields = check_template(template)
    except BadTemplate as wrong:
        field = str(wrong)
        sentence = say("label.template.field", name=field) if field else say("label.template.braces")
        raise _bad("--template", sentence) from None
    if "caption" not in fields and not silent:
        raise _bad("--template", say("label.template.caption"))
    try:
        exchanged = tuple(pairs(replace or ()))
    except ValueError as wrong:
        raise _bad("--replace", say("label.replace.form", text=wrong)) from None
    return Phrasing(
        template, trigger.strip(), exchanged, listed(blacklist or ()), least, most, cutter=cutter()
    )


@contextmanager
def _ends_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: what was captioned is written first."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(report: Report, pictures: Path) -> int:
    from lora_scripts.data.text_files import printable

    from .console import print_problems

    print_problems([*report.problems, *report.failed])
    failed = len(report.failed)
    if failed:
        names = ", ".join(sorted(printable(_name(problem)) for problem in report.failed))
        typer.echo(say("label.failed", count=failed, total=report.total, names=names), err=True)
    typer.echo(say("label.done", made=report.made, kept=report.kept, failed=failed, path=report.output))
    beside = report.output.resolve().is_relative_to(pictures.resolve())
    if beside:
        typer.echo(say("label.next.beside", folder=pictures))
    else:
        typer.echo(say("label.next", folder=pictures, path=report.output))
    return BAD_PICTURES if failed else 0


def _look_over(report: Report, pictures: Path, trigger: str | None) -> None:
    """The data doctor's page on what is there now; its findings do not change how this command ends."""
    from rich.console import Console

    from lora_scripts.doctor import Settings, examine, page

    from .progress import phase_bar

    place = page.place_for(pictures, Path.cwd())
    metadata = report.output if report.output.is_file() else None
    with phase_bar(Console(stderr=True)) as progress:
        seen = examine(pictures, settings=Settings(metadata=metadata, trigger=trigger), progress=progress)
        written = page.write(seen, place)
    typer.echo(say("label.looked", verdict=page.verdict(seen)[1], page=written))


def _name(problem: Any) -> str:
    where = problem.where
    return str(problem.params.get("name") or (Path(where.file).name if where else ""))
