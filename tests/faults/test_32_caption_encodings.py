"""Row 32: captions in every encoding that is met: read as they were meant, or asked about, or shown with a
warning; never other words in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_scripts.core.problems import Problem, errors
from lora_scripts.data.manifest import read_pictures
from lora_scripts.data.text_files import read_text
from tests.data.text_cases import read
from tests.fuzz.pictures import _saved, _scene

SIMPLIFIED = (
    "赛博朋克城市，霓虹灯，雨夜", "一只猫坐在窗边", "水墨画，远山", "女孩", "红色连衣裙，长发，微笑，高清",
    "猫", "夜晚的街道，行人很少，灯光温暖", "古风少女，汉服", "1girl, 单人, 蓝天",
    "日落时的海滩，柔和的光线",
)  # fmt: skip
TRADITIONAL = (
    "賽博龐克城市，霓虹燈，雨夜", "一隻貓坐在窗邊", "水墨畫，遠山", "紅色連衣裙，長髮，微笑", "貓",
    "夜晚的街道，燈光溫暖", "黃昏時的海灘，柔和的光線", "書桌上的臺燈與筆記本", "1girl, 單人, 藍天",
    "龍與鳳凰",
)  # fmt: skip
JAPANESE = (
    "サイバーパンクの街、ネオン、雨の夜", "窓辺に座る猫", "水彩画、遠くの山", "赤いワンピース、長い髪",
    "ネコ", "夕暮れの海辺", "桜の木の下で本を読む少女", "1girl, 青い空", "ｱﾆﾒ", "東京の夜景",
)  # fmt: skip
WESTERN = ("un café là-bas, naïve", "Größe, Straße, Füße", "mañana, niño", "garçon", "ÀÉÎÕÜ", "résumé")
CORPUS = {
    "utf-8": SIMPLIFIED + TRADITIONAL + JAPANESE + WESTERN,
    "utf-8-sig": SIMPLIFIED + JAPANESE,
    "utf-16": SIMPLIFIED + JAPANESE + WESTERN,
    "gbk": SIMPLIFIED,
    "gb18030": SIMPLIFIED,
    "big5": TRADITIONAL,
    "shift_jis": JAPANESE,
    "euc_jp": JAPANESE,
    "euc_kr": ("고양이가 창가에 앉아 있다", "네온 불빛의 도시", "하늘"),
    "latin-1": WESTERN,
    "cp1252": (*WESTERN, "“curly” – dash"),
    "utf-16-le": tuple(f"{text}, sks style" for text in SIMPLIFIED + JAPANESE),
    "utf-16-be": tuple(f"{text}, sks style" for text in SIMPLIFIED + JAPANESE),
}
CERTAIN = ("utf-8", "utf-8-sig", "utf-16", "gbk", "gb18030")
"""What is read without asking: by its marks, by being valid, or as everyday Chinese."""


def _verdict(meant: str, got: str | None, problems: list[Problem]) -> str:
    """``read``, ``shown`` (a warning shows what was made of it), ``asked`` (an error), or ``silent``."""
    codes = {problem.code for problem in problems}
    if got == meant:
        return "read"
    if got is None:
        return "asked" if codes & {"LS2010", "LS2007", "LS2163"} else "silent"
    shown = [str(problem.params["sample"]) for problem in problems if problem.code in ("LS2011", "LS2403")]
    return "shown" if shown else "silent"


@pytest.mark.parametrize("encoding", CORPUS)
def test_32_a_caption_file_is_read_or_asked_about(tmp_path: Path, encoding: str) -> None:
    verdicts = {}
    for number, text in enumerate(CORPUS[encoding]):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(text.encode(encoding, "ignore"))
        meant = path.read_bytes().decode(encoding)
        verdicts[text] = _verdict(meant, *read_text(path))
    assert "silent" not in verdicts.values(), verdicts
    if encoding in CERTAIN:
        assert set(verdicts.values()) == {"read"}


@pytest.mark.parametrize("encoding", CORPUS)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_32_a_table_of_them_is_read_or_asked_about(tmp_path: Path, encoding: str, suffix: str) -> None:
    (tmp_path / "a.png").write_bytes(_saved(_scene(), ".png"))
    for text in CORPUS[encoding]:
        row = (
            f'a.png,"{text}"\n'
            if suffix == "csv"
            else json.dumps({"file_name": "a.png", "text": text}, ensure_ascii=False)
        )
        data = row.encode(encoding, "ignore")
        (tmp_path / f"metadata.{suffix}").write_bytes(data)
        meant = data.decode(encoding)
        manifest = read_pictures(tmp_path)
        got = manifest.examples[0].fields["caption"] if manifest.examples else None
        verdict = "read" if got is not None and got in meant else _verdict(meant, got, manifest.problems)
        assert verdict != "silent", (text, got, manifest.problems)
        if verdict == "asked":
            assert errors(manifest.problems), "what cannot be read stops a run"


@pytest.mark.parametrize("encoding", CORPUS)
def test_32_rows_of_text_are_read_or_asked_about(tmp_path: Path, encoding: str) -> None:
    for text in CORPUS[encoding]:
        path = tmp_path / "rows.jsonl"
        row = json.dumps({"prompt": "x", "completion": text}, ensure_ascii=False)
        path.write_bytes(row.encode(encoding, "ignore"))
        meant = json.loads(path.read_bytes().decode(encoding))["completion"]
        examples, texts = read(path)
        got = examples[0].turns[-1].content if examples else None
        assert _verdict(meant, got, texts.problems) != "silent", (text, got, texts.problems)


@pytest.mark.parametrize(
    ("text", "taken", "code"),
    [
        ("猫", "猫", "LS2011"),
        ("猫，狗", "猫，狗", "LS2011"),
        ("联通", "联通", "LS2011"),
        ("小写", "Сд", "LS2014"),
    ],
)
def test_32_hanzi_that_are_letters_of_utf8_too_are_told_of(
    tmp_path: Path, text: str, taken: str, code: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode("gbk"))
    got, (problem,) = read_text(path)
    assert (got, problem.code, problem.severity) == (taken, code, "warning")


@pytest.mark.parametrize("text", [*WESTERN, "Привет, мир", "дверь", "καλημέρα", "naïve", "Ärger", "une fée"])
def test_32_words_of_other_alphabets_in_utf8_are_left_in_peace(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    assert read_text(path) == (text, [])


def test_32_what_a_gbk_caption_was_read_as_is_shown_in_the_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(SIMPLIFIED[0].encode("gbk"))
    _, (problem,) = read_text(path)
    assert (problem.code, problem.severity, problem.params["sample"]) == ("LS2011", "warning", SIMPLIFIED[0])
