"""Row 2: kill -9 inside a save, before each of its calls to the system and in the middle of each write."""

from tests.faults.saved import bases, save  # noqa: F401 - fixtures
from tests.torture import cuts, saves


def test_02_killed_at_any_call_the_old_is_whole_or_the_new_and_the_next_save_works(save, tmp_path):  # noqa: F811
    found = cuts.cut_off(save, tmp_path)
    assert found.points >= 10
    assert not found.failures


def test_02_a_file_written_in_place_would_be_noticed(tmp_path, monkeypatch):
    """The harness can fail: without a temporary name a kill leaves half a file, or none, under its own."""
    from lora_scripts.training import records

    def write(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    monkeypatch.setattr(records, "write_atomic", write)
    assert cuts.cut_off(saves.records_save(), tmp_path).failures
