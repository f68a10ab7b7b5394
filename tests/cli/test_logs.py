"""The curves are served on this computer only."""

from __future__ import annotations

import socket
import urllib.request

import pytest

from lora_scripts.cli import logs, main


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def run_folder(tmp_path):
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    EventFileWriter(str(tmp_path / "my_lora" / "logs")).close()
    return tmp_path


def test_a_folder_without_logs_is_refused(tmp_path, capsys):
    assert main.run(["logs", str(tmp_path)]) == 2
    assert "there are no logs under" in capsys.readouterr().err


def test_the_page_is_there_on_the_loopback_address_only(run_folder):
    port = free_port()
    address = logs.start(run_folder, port)
    assert address == f"http://127.0.0.1:{port}/"
    with urllib.request.urlopen(address, timeout=20) as page:
        assert page.status == 200
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for other in others - {"127.0.0.1"}:
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex((other, port)) != 0


def test_a_used_port_is_said_plainly(run_folder, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main.run(["logs", str(run_folder), "--port", str(port)]) == 4
    assert f"port {port} is in use" in capsys.readouterr().err
