"""A hub that is away, refuses, is busy, or breaks off: a clear reason, what to do, no token, and the download
goes on where it stopped. Against a hub of our own on this computer, through the real library."""

from __future__ import annotations

import pytest

from lora_scripts.core.catalogue import fix, message, render
from lora_scripts.core.problems import ProblemsError
from lora_scripts.families import _hub, _source
from tests.contract.conftest import UNREACHABLE, tiny_chat_base, write_rows  # noqa: F401
from tests.faults.hub_server import GATED, serving

TOKEN = "hf_canaryBBBBBBBBBBBBBBBBBB"


@pytest.fixture
def use(monkeypatch, tmp_path):
    """Sends the library to an address, with a cache of its own and a token that must not be told."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def use(address: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(
            "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
        )
        from huggingface_hub import hf_api

        monkeypatch.setattr(hf_api.api, "endpoint", address)

    return use


@pytest.fixture
def hub(tiny_chat_base, use):  # noqa: F811
    with serving(tiny_chat_base) as server:
        server.files |= {"README.md": b"# A model", "pytorch_model.bin": b"never fetched"}
        use(server.address)
        yield server


def refusal(repo: str = "owner/name"):
    with pytest.raises(ProblemsError) as error:
        _source.resolve(repo)
    (problem,) = error.value.problems
    assert problem.code == "LS4006"
    shown = render(problem)
    assert TOKEN not in shown
    assert "HF_ENDPOINT" in fix(problem)
    assert "modelscope:" in fix(problem)
    for lang in ("en", "zh"):
        assert message(problem, lang)
    return problem


def test_a_model_is_fetched_and_the_token_goes_to_the_hub_alone(hub, tiny_chat_base):  # noqa: F811
    folder = _hub.fetch("owner/name")
    whole = {p.name for p in tiny_chat_base.iterdir() if p.name.endswith((".safetensors", ".json", ".jinja"))}
    assert {p.name for p in folder.iterdir()} == whole
    assert (folder / "model.safetensors").read_bytes() == (tiny_chat_base / "model.safetensors").read_bytes()
    assert f"Bearer {TOKEN}" in hub.tokens
    hub.asked.clear()
    assert _hub.fetch("owner/name") == folder
    assert hub.asked == []


WORDS = {
    "401": ((401, {"X-Error-Code": "RepoNotFound"}), "set HF_TOKEN"),
    "403 gated": ((403, GATED), "licence"),
    "401 gated": ((401, GATED), "licence"),
    "404": ((404, {"X-Error-Code": "RepoNotFound"}), "nothing of that name"),
    "429": ((429, {}), "too many questions"),
    "503": ((503, {}), "a fault"),
}


@pytest.mark.parametrize("kind", WORDS)
def test_every_refusal_has_its_reason(kind, hub):
    hub.refusal, words = WORDS[kind]
    problem = refusal()
    assert words in problem.params["reason"]
    assert f"HTTP {hub.refusal[0]}" in problem.params["reason"]
    assert hub.address in message(problem)


def test_no_connection_is_no_riddle(use):
    use(UNREACHABLE)
    assert "no connection" in refusal().params["reason"]


def test_offline_by_wish(use, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refusal()


def test_a_password_in_the_mirror_s_address_is_not_shown(use):
    use("http://me:canary-55@127.0.0.1:9")
    assert "canary-55" not in render(refusal())


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub, tiny_chat_base, monkeypatch):  # noqa: F811
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)  # what is kept of a cut piece
    hub.cut = 2
    folder = _hub.fetch("owner/name")
    assert (folder / "model.safetensors").read_bytes() == (tiny_chat_base / "model.safetensors").read_bytes()
    ranges = [asked for _, path, asked in hub.asked if asked and path.endswith("model.safetensors")]
    size = (tiny_chat_base / "model.safetensors").stat().st_size
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in ranges]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] < size


def test_a_hub_that_goes_away_meanwhile_leaves_what_came_whole(hub):
    hub.cut = 10**6
    data = hub.files["model.safetensors"]
    with pytest.raises(ProblemsError) as error:
        _hub.fetch("owner/name")
    (problem,) = error.value.problems
    assert "broke off" in problem.params["reason"]
    hub.cut = 0
    before = len(hub.asked)
    folder = _hub.fetch("owner/name")
    again = {
        path.rpartition("/")[2]
        for method, path, _ in hub.asked[before:]
        if method == "GET" and "/resolve/" in path
    }
    assert again == {"model.safetensors"}, "only what was missing is fetched"
    assert (folder / "model.safetensors").read_bytes() == data


def test_a_data_set_that_cannot_be_had_says_why(hub):
    from lora_scripts.data import text_hub

    hub.refusal = (403, GATED)
    with pytest.raises(ProblemsError) as error:
        text_hub.fetch("owner/rows")
    (problem,) = error.value.problems
    assert (problem.code, "licence" in problem.params["reason"]) == ("LS2108", True)


def test_a_captioner_that_cannot_be_had_says_why(hub):
    from lora_scripts.labeling.captioners._models import locate

    hub.refusal = (429, {})
    with pytest.raises(ProblemsError) as error:
        locate("owner/name")
    (problem,) = error.value.problems
    assert (problem.code, "too many" in problem.params["reason"]) == ("LS3150", True)
    assert "HF_ENDPOINT" in fix(problem)
    assert "modelscope:" in fix(problem)
