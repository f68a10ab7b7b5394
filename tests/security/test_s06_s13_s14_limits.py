"""S6: the one request that this program makes itself goes to this computer unless said otherwise, follows
nobody, and has an end. S13: archives, and S14: pictures: tests/faults/test_29_bombs.py.

S5 and S7 to S12 are about a web page, which there is none of; TensorBoard serves this computer only
(tests/cli/test_logs.py). Keys, redirections and other machines: tests/labeling/test_http.py.
"""

from __future__ import annotations

import ast
import os
import socket
import threading

import pytest
from PIL import Image

from lora_scripts.core.problems import ProblemsError
from lora_scripts.labeling._captioner import Asked
from lora_scripts.labeling.captioners import http
from tests.architecture.sources import SRC, python_files, shown, tree

ASKING = {
    "urllib.request",
    "http.client",
    "requests",
    "httpx",
    "httpx2",
    "aiohttp",
    "socket",
    "urllib3",
    "ftplib",
    "smtplib",
}
ALLOWED = {
    "src/lora_scripts/labeling/captioners/http.py": "the captioner that another program serves",
    "src/lora_scripts/training/launch.py": "a free port for the processes of a run",
    "src/lora_scripts/training/records.py": "this computer's name",
}


def test_s06_nothing_else_speaks_to_a_network_by_itself():
    found = {}
    for path in python_files("src/lora_scripts"):
        for node in ast.walk(tree(path)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if asked := ASKING & set(names):
                found[shown(path)] = asked
    locks = {
        name for name in found if name.startswith("src/lora_scripts/core/") and found[name] == {"socket"}
    }
    assert set(found) - locks == set(ALLOWED)


def test_s06_no_library_tells_a_hub_what_it_is_used_for(monkeypatch):
    from lora_scripts.cli.main import run

    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setattr("lora_scripts.cli.main.build", lambda: lambda **given: 0)
    assert run([]) == 0
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize(
    "url", ["http://example.com/v1", "http://10.0.0.1:1", "http://0.0.0.0:1", "http://169.254.169.254/latest",
            "http://127.0.0.1.example.com", "http://2130706433.example.com", "file:///etc/passwd", "ftp://127.0.0.1/",
            "gopher://127.0.0.1", "http://localhost@example.com", "http://[::ffff:10.0.0.1]:1"],
)  # fmt: skip
def test_s06_pictures_stay_on_this_computer(url):
    with pytest.raises(ProblemsError) as error:
        http.load(Asked(url=url, model="m"))
    assert error.value.problems[0].code in {"LS3106", "LS3107"}


def server(answer):
    """Says ``answer(connection)`` to one caller after another."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                try:
                    answer(connection)
                except OSError:
                    continue

    threading.Thread(target=serve, daemon=True).start()
    return listening


def test_s06_an_answer_without_end_is_not_read_to_its_end(monkeypatch):
    sent = []

    def endless(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        for _ in range(64):
            connection.sendall(b'"' + b"x" * 2**20)
            sent.append(1)

    monkeypatch.setattr(http, "MOST_BYTES", 2**16)
    monkeypatch.setattr(http, "BACKOFF", 0.0)
    with server(endless) as listening:
        loaded = http.load(
            Asked(url=f"http://127.0.0.1:{listening.getsockname()[1]}", model="m", batch_size=1)
        )
        (words,) = loaded.describe([Image.new("RGB", (8, 8))])
    assert words.problem.code == "LS3115"
    assert len(sent) < 32


def test_s06_an_answer_that_only_trickles_is_given_up(monkeypatch):
    def trickling(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(100):
            connection.sendall(b" ")
            threading.Event().wait(0.02)

    monkeypatch.setattr(http, "TIMEOUT", 0.2)
    monkeypatch.setattr(http, "BACKOFF", 0.0)
    monkeypatch.setattr(http, "TRIES", 2)
    with server(trickling) as listening:
        loaded = http.load(
            Asked(url=f"http://127.0.0.1:{listening.getsockname()[1]}", model="m", batch_size=1)
        )
        with pytest.raises(ProblemsError) as error:
            loaded.describe([Image.new("RGB", (8, 8))])
    assert error.value.problems[0].code == "LS3100"


def test_s13_no_archive_is_ever_unpacked_whole():
    unpackers = {"extractall", "extract", "unpack_archive"}
    for path in SRC.rglob("*.py"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and node.attr in unpackers:
                raise AssertionError(f"{shown(path)}:{node.lineno} {node.attr}")
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "tarfile" not in ast.unparse(node), shown(path)


def test_s14_pictures_are_opened_in_one_place_by_an_allow_list():
    """Without one only what this program wrote itself."""
    from lora_scripts.data import pixels

    assert set(pixels.FORMATS) == {"JPEG", "PNG", "WEBP", "BMP", "GIF", "AVIF"}
    opened = {
        shown(path)
        for path in SRC.rglob("*.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("Image.open")
        and "formats" not in {word.arg for word in node.keywords}
    }
    assert opened == {"src/lora_scripts/training/callbacks/board.py"}, "its own previews"
