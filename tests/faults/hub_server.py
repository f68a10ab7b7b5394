"""A hub on this computer: the few answers of the real one that a download asks for, and its ways to fail."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SHA = "a" * 40
GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}


class Hub(ThreadingHTTPServer):
    """``files``: name -> bytes of the one repository. ``refusal``: status (and headers) of every answer.
    ``cut``: how often a file's second half is not sent."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.refusal: tuple[int, dict[str, str]] | None = None
        self.cut = 0
        self.asked: list[tuple[str, str, str | None]] = []
        self.tokens: set[str] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("Range")))
        self.server.tokens.add(self.headers.get("Authorization", ""))
        if self.server.refusal is not None:
            status, headers = self.server.refusal
            self.send(status, json.dumps({"error": "no"}).encode(), headers, body)
        elif "/resolve/" in self.path:
            self.file(self.path.partition(f"/resolve/{SHA}/")[2], body)
        elif self.path.startswith("/api/"):
            listing = [{"rfilename": name, "size": len(data)} for name, data in self.server.files.items()]
            if "/tree/" in self.path:
                listing = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in self.server.files.items()
                ]
                self.send(200, json.dumps(listing).encode(), {}, body)
                return
            told = {"id": "owner/name", "sha": SHA, "siblings": listing, "private": False, "tags": []}
            self.send(200, json.dumps(told).encode(), {"Content-Type": "application/json"}, body)
        else:
            self.send(404, b"", {}, body)

    def file(self, name: str, body: bool) -> None:
        data = self.server.files.get(name)
        if data is None:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
            return
        headers = {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": SHA,
            "Accept-Ranges": "bytes",
        }
        start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        status = 206 if start else 200
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        part = data[start:]
        short = body and self.server.cut > 0 and name.endswith(".safetensors")
        self.send(status, part, headers, body, part[: len(part) // 2] if short else part)
        if short:
            self.server.cut -= 1
            self.close_connection = True

    def send(
        self, status: int, data: bytes, headers: dict[str, str], body: bool, sent: bytes | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(data if sent is None else sent)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """A hub whose one repository holds the files of ``folder``."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    hub = Hub(files)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
