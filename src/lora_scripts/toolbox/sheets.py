"""Contact sheets: pictures in rows and columns with their labels, in any script that a system font can
draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 8
"""Pixels between pictures and around them."""
CJK_FONTS = (
    "msyh.ttc",
    "simhei.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
)
"""The embedded font draws Latin letters only; these come with Windows, macOS and Linux desktops."""


def font(size: int, text: str) -> Any:
    """A font of ``size`` pixels that can draw ``text``, as far as this system has one."""
    from PIL import ImageFont

    if not text.isascii():
        for name in CJK_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def wrap(text: str, face: Any, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` pixels, broken at spaces, else inside a word."""
    lines, line = [], ""
    for word in text.split():
        joined = f"{line} {word}".strip()
        if face.getlength(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        line = ""
        for letter in word:
            if line and face.getlength(line + letter) > width:
                lines.append(line)
                line = ""
            line += letter
    return [*lines, line] if line else lines


def contact_sheet(
    images: Sequence[Sequence[Image]],
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    background: str = "white",
    ink: str = "black",
) -> Image:
    """``images[row][column]`` on one sheet, labels on the left and above; a short row leaves its end empty.

    Every cell has the size of the largest picture. Raises ValueError where there is no picture.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw

    flat = [image for row in images for image in row]
    if not flat:
        raise ValueError("a sheet needs at least one picture")
    cell = (max(image.width for image in flat), max(image.height for image in flat))
    size = max(12, min(28, cell[1] // 14))
    face = font(size, "".join([*rows, *columns]))
    line = int(size * 1.35)
    left = max(cell[0] // 2, 120) + GAP if any(rows) else 0
    heads = [wrap(text, face, cell[0]) for text in columns]
    top = max((len(head) for head in heads), default=0) * line + (GAP if any(columns) else 0)
    across = max(max(len(row) for row in images), len(columns))
    sheet = Pillow.new(
        "RGB",
        (left + across * (cell[0] + GAP) + GAP, top + len(images) * (cell[1] + GAP) + GAP),
        background,
    )
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        for number, text in enumerate(head):
            draw.text((left + GAP + column * (cell[0] + GAP), GAP // 2 + number * line), text, ink, font=face)
    for row, pictures in enumerate(images):
        y = top + GAP + row * (cell[1] + GAP)
        label = wrap(rows[row], face, left - GAP) if row < len(rows) else []
        for number, text in enumerate(label[: max(1, cell[1] // line)]):
            draw.text((GAP, y + number * line), text, ink, font=face)
        for column, picture in enumerate(pictures):
            sheet.paste(picture.convert("RGB"), (left + GAP + column * (cell[0] + GAP), y))
    return sheet
