"""The page: whole in itself, harmless with any name and caption, in both languages, bounded."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lora_scripts.core.catalogue import use_language
from lora_scripts.doctor import Settings, examine, page, thumbnails
from lora_scripts.doctor.report import Finding, Item, Report
from tests.doctor.pictures import blurred, photo, save

VOID = {"meta", "img", "br", "link", "input"}
EVIL = "<img src=x onerror=alert(1)>"


class Reader(HTMLParser):
    """Elements, attributes and text of a page; fails where elements are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style",):
            self.words.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    names = {f"p{seed}.png": photo(seed) for seed in range(6)}
    names |= {"copy.jpg": photo(1).resize((240, 192)), "soft.png": blurred(photo(9), 0.02)}
    names[f"{EVIL}.png"] = photo(30)
    captions = {"p2.png": f"{EVIL}, <script>alert(2)</script>, \u202e\x07 x", f"{EVIL}.png": ""}
    return save(tmp_path_factory.mktemp("page") / "data", names, captions)


def written(folder, tmp_path, **settings):
    path = page.write(examine(folder, settings=Settings(resolution=256, **settings)), tmp_path / "report")
    return path, path.read_text(encoding="utf-8")


def test_the_page_is_whole_in_itself(folder, tmp_path):
    path, text = written(folder, tmp_path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["report.html", "report.json"]
    read = Reader(text)
    pictures = read.of("img")
    assert pictures
    assert all(each["src"].startswith("data:image/jpeg;base64,") and each["alt"] for each in pictures)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in read.elements}
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]
    policy = [each["content"] for each in read.of("meta") if each.get("http-equiv")]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert not re.search(r"url\(|@import|https?:", text)


def test_names_and_captions_are_text(folder, tmp_path):
    _, text = written(folder, tmp_path, trigger="absent")
    words = "".join(Reader(text).words)
    assert EVIL in words
    assert "<script>alert(2)</script>" in words
    assert "\u202e" not in text
    assert "\x07" not in text


def test_every_link_leads_somewhere_and_marks_are_unique(folder, tmp_path):
    read = Reader(written(folder, tmp_path, trigger="absent")[1])
    marks = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(marks) == len(set(marks))
    assert {each["href"][1:] for each in read.of("a")} == set(marks)


def test_each_finding_says_what_to_do_in_the_users_language(folder, tmp_path):
    english = "".join(Reader(written(folder, tmp_path)[1]).words)
    use_language("zh")
    _, text = written(folder, tmp_path)
    chinese = "".join(Reader(text).words)
    assert "blurred pictures: 1" in english
    assert "keep the first of each group" in english
    assert "模糊的图片：1 张" in chinese
    assert "每组请保留第一张" in chinese
    assert "advice" not in chinese
    assert '<html lang="zh-Hans">' in text


def test_the_page_stays_small_however_much_is_found(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(thumbnails, "MOST", 5)
    problem = next(each for each in examine(folder, settings=Settings(resolution=256)).findings).problem
    files = sorted(folder.glob("p*.png"))
    items = [Item(f"n{n}", files[n % len(files)], 320, 256) for n in range(1000)]
    groups = (*((item,) for item in items), tuple(items[:50]))
    report = Report(folder, "x", Settings(), findings=(Finding("duplicates", problem, groups[::-1]),))
    read = Reader(page.page_html(report))
    assert len({each["src"] for each in read.of("img")}) == 5
    assert len(read.of("figure")) == page.IN_GROUP + page.SHOWN - 1
    assert f"and {len(groups) - page.SHOWN} more" in "".join(read.words)


def test_a_picture_that_is_gone_is_told_and_not_shown(folder, tmp_path):
    gone = save(tmp_path / "data", {"a.png": photo(1), "b.png": photo(1)}, {})
    report = examine(gone, settings=Settings(resolution=256))
    (gone / "b.png").unlink()
    read = Reader(page.page_html(report))
    assert len(read.of("img")) == 1
    assert "no preview" in "".join(read.words)


def test_the_report_lies_outside_of_the_data(tmp_path, monkeypatch):
    data = tmp_path / "sets" / "style"
    data.mkdir(parents=True)
    assert page.place_for(data, tmp_path) == tmp_path / "output" / "dataset-check" / "style"
    assert page.place_for(data, data) == tmp_path / "sets" / "style-dataset-check"
    monkeypatch.chdir(data)
    assert page.place_for(Path("."), Path.cwd()) == tmp_path / "sets" / "style-dataset-check"
