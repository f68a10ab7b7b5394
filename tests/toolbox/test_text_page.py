"""The page of a run's answers: every text stays text, in both languages, without a script."""

from html.parser import HTMLParser

import pytest

from lora_scripts.core.catalogue import use_language
from lora_scripts.toolbox.text_page import sentences_html, sentences_page

NASTY = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "</td></tr></table><h1>gone</h1>",
    "</title></style><script>alert(1)</script>",
    "&lt;b&gt; &amp; ' \"",
    "javascript:alert(1)",
]

TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "p", "div"}
TAGS |= {"table", "thead", "tbody", "tr", "th", "td"}


class Reader(HTMLParser):
    """What a browser would see: tags with their attributes, and the text of headings and cells."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags = []
        self.texts = []
        self.inside = False

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag in ("td", "th", "h1", "title")
        if self.inside:
            self.texts.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.texts[-1] += data


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def test_hostile_texts_are_shown_as_texts():
    columns = {0: NASTY, 100: [*reversed(NASTY)]}
    reader = read(sentences_html(NASTY, columns, title=NASTY[4]))
    names = {tag for tag, _ in reader.tags}
    assert names <= TAGS
    assert not [name for _, attrs in reader.tags for name in attrs if name.startswith("on") or name == "src"]
    cells = reader.texts[2:]
    assert reader.texts[:2] == [NASTY[4], NASTY[4]]
    assert cells[3:6] == [NASTY[0], NASTY[0], NASTY[-1]]
    assert [cells[i] for i in range(3, len(cells), 3)] == NASTY


def test_what_no_page_may_hold_is_replaced(tmp_path):
    path = tmp_path / "page.html"
    sentences_page(path, ["a\x00b"], {1: ["\x1b[31mred\ud800\r\nnext\tline"]})
    page = path.read_bytes().decode("utf-8")
    assert "a\ufffdb" in page
    assert "\ufffd[31mred\ufffd" in page
    assert not set(page) & {"\x00", "\x1b"}


@pytest.mark.parametrize(("language", "tag", "word"), [("en", "en", "before"), ("zh", "zh-Hans", "训练前")])
def test_the_page_speaks_the_users_language_and_needs_nothing_else(language, tag, word):
    use_language(language)
    page = sentences_html(["Hello"], {0: ["Hi"], 50: ["Hi"], 100: ["Ho"]}, title="voice")
    reader = read(page)
    assert ("html", {"lang": tag}) in reader.tags
    assert word in reader.texts
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    cells = [attrs for name, attrs in reader.tags if name == "td"]
    assert [attrs.get("class") for attrs in cells] == [None, "same", None]


def test_columns_stand_in_the_order_of_steps_and_gaps_stay_empty():
    reader = read(sentences_html(["one", "two"], {200: ["c", "d"], 0: ["a", None]}, title="t"))
    assert reader.texts[3:] == ["before", "step 200", "one", "a", "c", "two", "", "d"]
