import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from src.modeling.hub import go_offline_if_hub_unreachable


class Missing(BaseHTTPRequestHandler):
    """Answers that there is nothing."""

    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """That of a server that answers."""
    with HTTPServer(("127.0.0.1", 0), Missing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def nobody() -> str:
    """The address of a port at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing said of the Hub, and what is said is taken back."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setenv("HF_ENDPOINT", "")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_where_nobody_answers_only_the_cache_is_read(
    nobody: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", nobody)
    go_offline_if_hub_unreachable()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert capsys.readouterr().err.startswith(f"warning: {nobody} does not answer: ")


def test_any_answer_is_one(address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    go_offline_if_hub_unreachable()
    assert os.environ["HF_HUB_OFFLINE"] == ""
    assert capsys.readouterr().err == ""


def test_who_is_offline_by_choice_hears_nothing(
    nobody: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", nobody)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    go_offline_if_hub_unreachable()
    assert capsys.readouterr().err == ""
