import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from src.modeling.hub import go_offline_if_hub_unreachable
from tests.ports import free_port


class Missing(BaseHTTPRequestHandler):
    """A server that answers every request with 404."""

    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """Return the address of a server that answers."""
    with HTTPServer(("127.0.0.1", 0), Missing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def dead_address() -> str:
    """Return the address of a port without a listener."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clear the Hub's settings, and restore them after the test."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setenv("HF_ENDPOINT", "")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_unreachable_hub_means_offline(
    dead_address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", dead_address)
    go_offline_if_hub_unreachable()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert capsys.readouterr().err.startswith(f"warning: {dead_address}")


def test_any_answer_keeps_online(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    go_offline_if_hub_unreachable()
    assert os.environ["HF_HUB_OFFLINE"] == ""
    assert capsys.readouterr().err == ""


def test_malformed_address_is_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:abc")
    go_offline_if_hub_unreachable()
    assert os.environ["HF_HUB_OFFLINE"] == ""


def test_chosen_offline_prints_no_warning(
    dead_address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", dead_address)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    go_offline_if_hub_unreachable()
    assert capsys.readouterr().err == ""
