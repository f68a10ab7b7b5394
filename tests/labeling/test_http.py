"""The captioner ``http`` against a real server on this machine."""

from __future__ import annotations

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from lora_scripts.core.catalogue import render
from lora_scripts.core.problems import ProblemsError
from lora_scripts.labeling._captioner import Asked, Words
from lora_scripts.labeling.captioners import http

RED, BLUE = Image.new("RGB", (64, 32), "red"), Image.new("RGB", (3000, 100), "blue")
SECRET = "sk-very-secret"


def colour(data_url: str) -> str:
    assert data_url.startswith("data:image/jpeg;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(data_url.partition(",")[2])))
    assert max(picture.size) <= http.SIDE
    red, _, blue = picture.getpixel((3, 3))
    return "red" if red > blue else "blue"


class Server(ThreadingHTTPServer):
    """Answers as ``answers`` say, one after the other, then with what it sees."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list = []
        self.asked: list[tuple[str, dict, dict]] = []
        self.models = {"data": [{"id": "first"}, {"id": "second"}]}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers), {}))
        self.answer(200, self.server.models)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        if self.server.answers:
            self.answer(*self.server.answers.pop(0))
        else:
            url = body["messages"][0]["content"][1]["image_url"]["url"]
            self.answer(200, said(f'"A {colour(url)} picture."'))

    def answer(self, status, content, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def said(content):
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(http, "BACKOFF", 0.001)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a proxy that must not be asked
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def captioner(server, **more):
    return http.load(Asked(url=server.url, **more))


def code(error) -> str:
    (problem,) = error.value.problems
    assert SECRET not in render(problem)
    return problem.code


def test_pictures_are_described_in_their_order(server):
    loaded = captioner(server, instruction="What colour?", max_new_tokens=9)
    words = loaded.describe([RED, BLUE, RED])
    loaded.close()
    assert [found.text for found in words] == ["A red picture.", "A blue picture.", "A red picture."]
    assert server.asked[0][0] == "/v1/models"
    path, headers, body = server.asked[1]
    assert (path, body["model"], body["max_tokens"]) == ("/v1/chat/completions", "first", 9)
    assert body["messages"][0]["content"][0] == {"type": "text", "text": "What colour?"}
    assert "Authorization" not in headers


@pytest.mark.parametrize("path", ["", "/v1", "/v1/", "/v1/chat/completions"])
def test_addresses_as_people_write_them(server, path):
    loaded = http.load(Asked(url=server.url + path, model="own"))
    assert loaded.describe([RED]) == [Words("A red picture.")]
    assert [(asked[0], asked[2]["model"]) for asked in server.asked] == [("/v1/chat/completions", "own")]


def test_the_key_is_sent_and_never_shown(server, monkeypatch):
    monkeypatch.setenv(http.KEY, SECRET)
    server.answers = [(401, {"error": {"message": f"wrong key {SECRET}"}})]
    loaded = captioner(server)
    with pytest.raises(ProblemsError) as error:
        loaded.describe([RED])
    assert code(error) == "LS3108"
    assert server.asked[-1][1]["Authorization"] == f"Bearer {SECRET}"


def test_a_busy_server_is_asked_again(server):
    loaded = captioner(server, batch_size=1)
    server.answers = [(503, {"error": "loading"}), (429, b"slow down"), (500, b"")]
    assert loaded.describe([RED]) == [Words("A red picture.")]


def test_one_picture_that_is_refused_does_not_stop_the_others(server):
    loaded = captioner(server, batch_size=1)
    server.answers = [
        (400, {"error": {"message": "image too odd"}}),
        (200, b"<html>"),
        (200, {"choices": []}),
    ]
    words = [loaded.describe([RED])[0] for _ in range(4)]
    assert [found.problem.code if found.problem else found.text for found in words] == ["LS3115"] * 3 + [
        "A red picture."
    ]
    assert "image too odd" in render(words[0].problem)


def test_a_server_that_fails_on_everything_stops_the_run(server):
    loaded = captioner(server, batch_size=1)
    server.answers = [(400, b"")] * 20
    for _ in range(http.HOPELESS - 1):
        assert loaded.describe([RED])[0].problem
    with pytest.raises(ProblemsError) as error:
        loaded.describe([RED])
    assert code(error) == "LS3115"
    assert len(server.asked) == 1 + http.HOPELESS


def test_thoughts_and_parts_of_an_answer(server):
    loaded = captioner(server, batch_size=1)
    server.answers = [
        (200, said("<think>It is\nred.</think>\n\nA red wall.")),
        (200, said([{"type": "text", "text": "In parts."}])),
        (200, said(None)),
        (200, said("<think>never ends")),
    ]
    assert [loaded.describe([RED])[0] for _ in range(4)] == [
        Words("A red wall."),
        Words("In parts."),
        Words(),
        Words(),
    ]


def test_no_server_no_model_no_permission(server):
    for url, expected in (
        (None, "LS3106"),
        ("ftp://127.0.0.1", "LS3106"),
        (f"http://me:{SECRET}@127.0.0.1:80", "LS3106"),
        ("http://127.0.0.1:x", "LS3106"),
        ("http://192.168.1.5:8000", "LS3107"),
        ("https://example.com/v1", "LS3107"),
        ("http://localhost.example.com", "LS3107"),
        ("http://127.0.0.1:9", "LS3100"),
    ):
        with pytest.raises(ProblemsError) as error:
            http.load(Asked(url=url))
        assert code(error) == expected, url
    server.models = {"data": []}
    with pytest.raises(ProblemsError) as error:
        captioner(server)
    assert code(error) == "LS3109"
    assert http._address("192.168.1.5:8000", True) == ("http://192.168.1.5:8000/v1", False)
    assert http._address("https://[::1]:1/", False) == ("https://[::1]:1/v1", True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirection_is_not_followed(server, monkeypatch, status):
    loaded = captioner(server, batch_size=1)
    answer = Handler.answer
    elsewhere = f"{server.url}/elsewhere"
    monkeypatch.setattr(Handler, "answer", lambda self, *said: answer(self, *said, Location=elsewhere))
    server.answers = [(status, b"")]
    with pytest.raises(ProblemsError) as error:
        loaded.describe([RED])
    assert code(error) == "LS3108"
    assert [asked[0] for asked in server.asked] == ["/v1/models", "/v1/chat/completions"]
