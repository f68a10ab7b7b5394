"""Small pictures inside the page, as many as a page can hold."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from ..data.pixels import BadPicture, open_picture

LONGEST = 176
"""Longest side in pixels."""
MOST = 240
"""Pictures in one page: about a megabyte and a half."""
QUALITY = 72


class Thumbnails:
    """Makes ``data:`` addresses of pictures until ``MOST`` are made."""

    def __init__(self, background: str) -> None:
        self._background = background
        self._made: dict[Path, str | None] = {}

    def of(self, path: Path) -> str | None:
        """A JPEG as a ``data:`` address; None for what cannot be read, and when there are enough."""
        if path not in self._made:
            if len(self._made) >= MOST:
                return None
            self._made[path] = self._make(path)
        return self._made[path]

    def _make(self, path: Path) -> str | None:
        try:
            image = open_picture(path, background=self._background)[0]
        except BadPicture:
            return None
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
        packed = io.BytesIO()
        image.save(packed, "JPEG", quality=QUALITY, optimize=True)
        return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode("ascii")
