"""The loop: what is captioned, what is kept, and that the death of the program loses and repeats nothing."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from lora_scripts.core.problems import ProblemsError
from lora_scripts.data.manifest import read_pictures
from lora_scripts.labeling.label import Watch, label
from lora_scripts.labeling.phrasing import Phrasing
from tests.labeling.conftest import colour_of, draw


def rows(path: Path) -> dict[str, str]:
    with open(path, newline="", encoding="utf-8") as handle:
        found = list(csv.reader(handle))
    assert found[0] == ["file_name", "text"]
    return dict(found[1:])


def write(path: Path, captions: dict[str, str]) -> None:
    text = "".join(f'{name},"{caption}"\n' for name, caption in captions.items())
    path.write_text("file_name,text\n" + text, encoding="utf-8")


def codes(problems) -> list[str]:
    return [problem.code for problem in problems]


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def test_both_forms_of_the_contract_train(data, tmp_path, job, captioner):
    said = draw(data, 5)
    for output in (data / "metadata.csv", tmp_path / "metadata.csv"):
        report = label(job(data, output=output))
        assert (report.made, report.failed) == (5, []) or report.kept == 5
        assert rows(output) == said
        manifest = read_pictures(data, output)
        assert manifest.problems == []
        assert {e.fields["name"]: e.fields["caption"] for e in manifest.examples} == said
    lines = (data / "metadata.csv").read_text().splitlines()
    assert lines[1] == 'img000.png,"a plain 0028c8"'


def test_pictures_go_in_batches_of_similar_shape(data, job, captioner):
    draw(data, 24)
    label(job(data))
    assert [len(batch) for batch in captioner.batches] == [4] * 6
    assert all(len(set(batch)) == 1 for batch in captioner.batches)
    assert captioner.closed == 1


def test_bad_pictures_are_named_and_the_others_go_on(data, job, captioner):
    said = draw(data, 6)
    (data / "page.jpg").write_bytes(b"<html></html>")
    (data / "cut.png").write_bytes((data / "img000.png").read_bytes()[:60])
    (data / "empty.webp").write_bytes(b"")
    report = label(job(data))
    assert {Path(p.where.file).name: p.code for p in report.failed} == {
        "page.jpg": "LS2051",
        "cut.png": "LS2054",
        "empty.webp": "LS2052",
    }
    assert rows(report.output) == said
    again = label(job(data))
    assert (again.made, again.kept, len(again.failed)) == (0, 6, 3)
    assert captioner.seen == 6
    assert captioner.closed == 1, "with nothing but bad pictures left, no model is loaded"


class Killed(BaseException):
    """The program's death: nothing is tidied up that a dead program could not have tidied up."""


@pytest.mark.parametrize("at", [1, 2, 3, 5])
@pytest.mark.parametrize("torn", [False, True])
def test_after_a_death_no_picture_is_captioned_twice(data, job, captioner, monkeypatch, at, torn):
    said = draw(data, 20)
    describe, output = captioner.describe, data / "metadata.csv"
    write(output, {"img003.png": "by hand"})

    def dying(pictures):
        if len(captioner.batches) == at:
            raise Killed
        return describe(pictures)

    captioner.describe = dying
    # A dead program writes nothing any more: neither the table nor the record's end.
    monkeypatch.setattr("lora_scripts.labeling.table_file.TableFile.flush", lambda self, last=False: False)
    with pytest.raises(Killed):
        label(job(data))
    assert rows(output) == {"img003.png": "by hand"}
    record, before = data / ".metadata.csv.labels.jsonl", captioner.seen
    if torn:
        record.write_bytes(record.read_bytes()[:-9])
    monkeypatch.undo()
    monkeypatch.setattr("lora_scripts.labeling.choose.module", lambda name: _file(captioner))
    captioner.describe = describe
    report = label(job(data))
    assert rows(output) == said | {"img003.png": "by hand"}
    assert captioner.seen == 19 + (1 if torn else 0)
    assert report.made == 19 - before + (1 if torn else 0)
    assert all(json.loads(line) for line in record.read_text().splitlines())


def _file(captioner):
    from types import SimpleNamespace

    return SimpleNamespace(load=lambda asked: captioner, DEFAULT_MODEL=None)


def test_control_c_writes_the_table_before_it_ends(data, job, captioner):
    said = draw(data, 12)
    describe = captioner.describe

    def interrupted(pictures):
        if len(captioner.batches) == 2:
            raise KeyboardInterrupt
        return describe(pictures)

    captioner.describe = interrupted
    with pytest.raises(KeyboardInterrupt):
        label(job(data))
    half = rows(data / "metadata.csv")
    assert len(half) == 8
    assert half.items() <= said.items()
    assert captioner.closed == 1


def test_existing_captions_are_kept_and_taken_over(data, job, captioner):
    said = draw(data, 6)
    (data / "img001.txt").write_text("beside the picture\n")
    (data / "img002.caption").write_text("in another file")
    (data / "img003.txt").write_text(" ,\n")
    (data / "metadata.jsonl").write_text('{"file_name": "img004.png", "text": "of the jsonl"}\n')
    report = label(job(data))
    kept = {
        "img001.png": "beside the picture",
        "img002.png": "in another file",
        "img004.png": "of the jsonl",
    }
    assert rows(report.output) == said | kept
    assert (report.made, report.kept) == (3, 3)


def test_a_row_edited_by_hand_survives_overwrite(data, job, captioner):
    said = draw(data, 4)
    output = data / "metadata.csv"
    label(job(data))
    edited = said | {"img001.png": "mended by hand"}
    write(output, edited)
    captioner.words = lambda picture: "new " + colour_of(picture)
    new = {name: "new " + caption for name, caption in said.items()}
    report = label(job(data, existing="overwrite"))
    assert rows(output) == new | {"img001.png": "mended by hand"}
    assert codes(report.problems) == ["LS3114"]
    report = label(job(data, existing="overwrite", edited=True))
    assert rows(output) == new
    record = (data / ".metadata.csv.labels.jsonl").read_text()
    assert "mended by hand" in record, "what was replaced is never gone"


def test_overwrite_goes_on_after_an_interruption(data, job, captioner):
    said = draw(data, 8, sizes=((32, 32),))
    output = data / "metadata.csv"
    write(output, dict.fromkeys(said, "old"))
    describe = captioner.describe

    def interrupted(pictures):
        if len(captioner.batches) == 1:
            raise KeyboardInterrupt
        return describe(pictures)

    captioner.describe = interrupted
    with pytest.raises(KeyboardInterrupt):
        label(job(data, existing="overwrite"))
    assert list(rows(output).values()).count("old") == 4
    captioner.describe = describe
    label(job(data, existing="overwrite"))
    assert rows(output) == said
    assert captioner.seen == 8


@pytest.mark.parametrize(("mode", "expected"), [("append", "by hand, {}"), ("prepend", "{}, by hand")])
def test_new_words_are_put_to_the_old_ones_once(data, job, captioner, mode, expected):
    said = draw(data, 3)
    write(data / "metadata.csv", {"img001.png": "by hand"})
    for _ in range(2):
        label(job(data, existing=mode))
        assert rows(data / "metadata.csv") == said | {"img001.png": expected.format(said["img001.png"])}
    assert captioner.seen == 3


def test_a_deleted_row_is_made_anew_and_an_edit_while_it_runs_stays(data, job, captioner):
    said = draw(data, 8)
    output = data / "metadata.csv"
    label(job(data))
    write(output, {name: text for name, text in said.items() if name < "img005"})
    describe = captioner.describe

    def edited(pictures):
        if captioner.seen == 8:
            write(output, {name: said[name] for name in list(said)[:4]} | {"img004.png": "now"})
        return describe(pictures)

    captioner.describe = edited
    report = label(job(data))
    assert report.made == 3
    assert rows(output) == said | {"img004.png": "now"}


def test_a_row_that_cannot_be_read_stops_before_anything_is_written(data, job, captioner):
    draw(data, 3)
    broken = "file_name,text\nimg000.png\n"
    (data / "metadata.csv").write_text(broken)
    with pytest.raises(ProblemsError) as caught:
        label(job(data))
    assert codes(caught.value.problems) == ["LS2001"]
    assert (data / "metadata.csv").read_text() == broken
    assert captioner.seen == 0


def test_the_file_of_another_folder_is_left_alone(data, tmp_path, job, captioner):
    draw(data, 2)
    other = 'other.png,"x"\n'
    (tmp_path / "metadata.csv").write_text(other)
    with pytest.raises(ProblemsError) as caught:
        label(job(data, output=tmp_path / "metadata.csv"))
    assert codes(caught.value.problems) == ["LS2460"]
    assert (tmp_path / "metadata.csv").read_text() == other


def test_memory_that_runs_out_halves_the_batch(data, job, captioner):
    said = draw(data, 16, sizes=((32, 32),))
    describe, told = captioner.describe, []

    def small(pictures):
        if len(pictures) > 3:
            raise MemoryError
        return describe(pictures)

    captioner.describe, captioner.batch_size = small, 8
    report = label(job(data), Watch(tell=told.append))
    assert rows(report.output) == said
    assert [len(batch) for batch in captioner.batches] == [2] * 8
    assert [re.findall(r"\d+", sentence) for sentence in told[1:]] == [["4"], ["2"]]


def test_memory_for_not_even_one_picture_stops_and_keeps_what_is_there(data, job, captioner):
    draw(data, 9, sizes=((32, 32),))
    describe = captioner.describe

    def full(pictures):
        if captioner.seen >= 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return describe(pictures)

    captioner.describe = full
    with pytest.raises(ProblemsError) as caught:
        label(job(data))
    assert codes(caught.value.problems) == ["LS3104"]
    assert len(rows(data / "metadata.csv")) == 4


def test_a_picture_that_the_captioner_fails_on_is_named(data, job, captioner):
    said = draw(data, 6, sizes=((32, 32),))
    describe = captioner.describe

    def picky(pictures):
        if any(colour_of(picture) == said["img002.png"] for picture in pictures):
            raise ValueError("an odd picture")
        return describe(pictures)

    captioner.describe = picky
    report = label(job(data))
    assert codes(report.failed) == ["LS2462"]
    assert sorted(rows(report.output)) == [name for name in said if name != "img002.png"]


def test_a_broken_captioner_is_a_bug_and_no_list_of_bad_pictures(data, job, captioner):
    draw(data, 6)

    def broken(pictures):
        raise TypeError("a slip of ours")

    captioner.describe = broken
    with pytest.raises(TypeError):
        label(job(data))


def test_what_is_worth_saying_about_captions(data, job, captioner):
    from lora_scripts.families._clip import cutter

    draw(data, 3)
    answers = iter(["", "word " * 80, "cat"])
    captioner.words = lambda picture: next(answers)
    report = label(job(data, phrasing=Phrasing(cutter=cutter(), least=2)))
    assert sorted(codes(report.problems)) == ["LS3110", "LS3111", "LS3113"]


def test_caption_files_beside_the_pictures(data, job, captioner):
    said = draw(data / "10_sks dog", 3)
    Image.new("RGB", (32, 32), "red").save(data / "10_sks dog" / "img000.jpg")
    report = label(job(data, format="txt"))
    assert report.made == 4
    assert (data / "10_sks dog" / "img001.txt").read_text() == said["img001.png"] + "\n"
    manifest = read_pictures(data)
    assert manifest.problems == []
    found = {e.fields["name"]: (e.fields["caption"], e.fields["repeats"]) for e in manifest.examples}
    assert found["10_sks dog/img000.png"] == (said["img000.png"], 10)
    assert found["10_sks dog/img000.jpg"] == ("a plain fe0000", 10)
    assert label(job(data, format="txt")).kept == 4


def test_a_table_in_a_folder_that_counts_repeats_is_warned_of(data, job, captioner):
    draw(data / "10_sks dog", 2)
    report = label(job(data))
    assert codes(report.problems) == ["LS3121"]
    assert set(rows(report.output)) == {"10_sks dog/img000.png", "10_sks dog/img001.png"}


def test_two_processes_do_not_write_one_file(data, job, captioner):
    draw(data, 2)
    describe = captioner.describe

    def nested(pictures):
        with pytest.raises(ProblemsError) as caught:
            label(job(data))
        assert codes(caught.value.problems) == ["LS3101"]
        return describe(pictures)

    captioner.describe = nested
    label(job(data))
    assert captioner.seen == 2
    assert not list(data.glob("*.lock")) + list(data.glob(".*.lock"))
