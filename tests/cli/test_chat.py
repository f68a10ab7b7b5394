"""``chat`` as a user types it: from a script, through a pipe, and at a terminal."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time

import pytest

from lora_scripts.cli.chat import _words
from lora_scripts.cli.main import run
from lora_scripts.toolbox.talk import generate_texts
from tests.texts import loras, small

QUESTION = "Where is my parcel?"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small.write_model(
        tmp_path_factory.mktemp("base") / "llama", "llama", max_position_embeddings=200_000
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory, base):
    return loras.write_lora(tmp_path_factory.mktemp("one") / "shop", base, seed=1)


@pytest.fixture(scope="module")
def pirate(tmp_path_factory, base):
    return loras.write_lora(tmp_path_factory.mktemp("two") / "pirate", base, seed=2, system="Arr.")


class Done:
    def __init__(self, monkeypatch, *words, lines=()):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self.code = run(["chat", "--max-new-tokens", "8", *map(str, words)])
        self.out, self.err = out.getvalue(), err.getvalue()


@pytest.fixture
def chat(monkeypatch):
    return lambda *words, lines=(): Done(monkeypatch, *words, lines=lines)


def shown(text):
    """What a terminal may get of an answer."""
    return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


def test_a_question_on_the_command_line_is_answered_on_stdout_alone(chat, base):
    (answer,) = generate_texts(loras.load(base), [QUESTION], max_new_tokens=8)
    done = chat("--base", base, "--ask", QUESTION)
    assert (done.code, done.out) == (0, shown(answer) + "\n")
    assert "Loading" not in done.err


def test_several_questions_stand_above_their_answers_and_do_not_know_each_other(chat, base, shop):
    one, two = (chat("--base", base, "--lora", shop, "--ask", text).out for text in (QUESTION, "保修期？"))
    done = chat("--base", base, "--lora", shop, "--ask", QUESTION, "--ask", "保修期？")
    assert done.out == f"> {QUESTION}\n{one}> 保修期？\n{two}"


def test_a_system_prompt_is_heard_and_the_adapters_own_is_used(chat, base, pirate):
    def ask(*words):
        return chat("--base", base, "--lora", pirate, "--ask", QUESTION, *words).out

    assert ask() == ask("--system", "Arr.")
    assert ask("--system", "You are a lighthouse.") != ask()
    assert ask("--system", "") != ask()


def test_the_base_may_be_left_out_when_the_adapter_names_it(chat, base, shop):
    asked = ("--lora", shop, "--ask", QUESTION)
    assert chat(*asked).out == chat("--base", base, *asked).out


def test_a_conversation_goes_on_over_a_switch_of_adapters(chat, tmp_path, base, shop, pirate):
    path = tmp_path / "talks.jsonl"
    lines = [QUESTION, f"/lora {pirate}", "And then?", "/lora shop:0.5 pirate:0.5", "And?", f"/save {path}"]
    done = chat("--base", base, "--lora", shop, lines=lines)
    assert done.code == 0
    assert [line for line in done.err.splitlines() if "speaking" in line] == [
        "speaking: shop",
        "speaking: pirate",
        "speaking: shop:0.5 + pirate:0.5",
    ]
    turns = json.loads(path.read_text("utf-8"))["messages"]
    assert turns[0] == {"role": "system", "content": "Arr."}
    assert [turn["content"] for turn in turns if turn["role"] == "user"] == [QUESTION, "And then?", "And?"]
    answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
    assert done.out == "".join(f"{shown(answer)}\n" for answer in answers)


def test_what_was_said_counts_until_it_is_forgotten(chat, base):
    asked = ("Hello", "Hello", "/reset", "Hello")
    first, second, again = chat("--base", base, lines=asked).out.splitlines()
    assert first == again
    assert first != second


def test_commands_tell_what_they_do(chat, base, shop):
    lines = [
        "/loras",
        "/base",
        "/loras",
        "/system Be kind.",
        "/system",
        "/save x.jsonl",
        "/help",
        "/quit",
        "No",
    ]
    done = chat("--base", base, "--lora", shop, lines=lines)
    assert (done.code, done.out) == (0, "")
    for words in ("* shop  ", "speaking: the base alone", "  shop  ", "system prompt: Be kind.",
                  "no system prompt", "nothing to save", "/lora NAME:0.5 OTHER:0.5"):  # fmt: skip
        assert words in done.err


def test_a_mistake_while_talking_ends_nothing(chat, base):
    done = chat("--base", base, lines=["/lora absent", "/dance", QUESTION])
    assert done.code == 0
    assert "LS4353" in done.err
    assert "LS4356" in done.err
    assert done.out


def test_what_cannot_be_talked_to_is_said_with_its_code(chat, tmp_path, base):
    for words, code in ((("--lora", tmp_path), "LS4300"), ((), "LS4351")):
        done = chat(*words, "--ask", QUESTION)
        assert (done.code, done.out) == (2, "")
        assert code in done.err


def test_chinese_users_are_spoken_to_in_chinese(chat, base):
    done = chat("--base", base, "--lang", "zh", lines=["/base", "/help"])
    assert "仅基础模型" in done.err
    assert "列出命令" in done.err


def test_a_model_cannot_steer_the_terminal(chat, base, monkeypatch):
    from lora_scripts.toolbox import talk

    monkeypatch.setattr(talk, "whole_text", lambda tokenizer, ids: "\x1b]0;owned\x07\x1b[2Jhi\x9b5m\nho")
    for words, lines in ((("--ask", "?"), ()), ((), ["?"])):
        assert chat("--base", base, *words, lines=lines).out.strip() == "]0;owned[2Jhi5m\nho"


def test_ctrl_c_before_the_first_word_stops_the_answer_and_not_the_talk(chat, base, monkeypatch):
    from lora_scripts.toolbox import talk

    def interrupted(*_args, **_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(talk, "stream_text", interrupted)
    done = chat("--base", base, lines=["Hi", "/loras"])
    assert done.code == 0
    assert "(stopped)" in done.err
    assert "no adapter is loaded" in done.err


def test_paths_are_split_as_they_are_typed():
    assert _words('"C:\\my voices\\shop:0.5" pirate') == ["C:\\my voices\\shop:0.5", "pirate"]
    assert _words("D:\\voices\\new") == ["D:\\voices\\new"]
    assert _words("it's here") == ["it's", "here"]
    assert _words("a#b") == ["a#b"]


def test_help_is_light():
    script = (
        "import sys\nfrom lora_scripts.cli.main import run\n"
        "try:\n    run(['chat', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Terminal:
    """A process at a pseudo-terminal."""

    def __init__(self, *words):
        import pty

        self.side, other = pty.openpty()
        command = [sys.executable, "-m", "lora_scripts.cli.main", "chat", *map(str, words)]
        self.process = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=other, start_new_session=True, preexec_fn=self.own
        )
        os.close(other)
        self.text = ""

    @staticmethod
    def own():
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def wait_for(self, words, seconds=60):
        import select

        until = time.monotonic() + seconds
        while words not in self.text and time.monotonic() < until:
            if select.select([self.side], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.side, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        assert words in self.text, self.text[-2000:]
        self.text = self.text.partition(words)[2]

    def type(self, text):
        os.write(self.side, text.encode())

    def end(self):
        code = self.process.wait(timeout=60)
        os.close(self.side)
        return code


@pytest.mark.slow  # a busy machine now and then answers later than it waits
@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are a matter of Unix")
def test_ctrl_c_stops_an_answer_and_a_second_one_leaves(base):
    terminal = Terminal("--base", base, "--max-new-tokens", 100_000)
    try:
        terminal.wait_for("\n> ")
        terminal.type("Tell me a long story\n")
        terminal.wait_for("story\r\n")
        time.sleep(1)
        terminal.type("\x03")
        terminal.wait_for("(stopped)")
        terminal.wait_for("\n> ")
        terminal.type("\x03")
        assert terminal.end() == 130
    finally:
        terminal.process.kill()
    assert "Traceback" not in terminal.text
