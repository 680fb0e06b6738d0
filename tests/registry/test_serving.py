"""A version behind MLflow's server, asked over HTTP."""

import base64
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from PIL import Image

from src import serve
from src.core.errors import UserError
from src.core.labels import TONES
from src.core.records import read_posts, read_predictions
from src.registry import registry
from src.registry.pyfunc import Row
from tests.ports import free_port
from tests.registry.conftest import STORE, store_in

if TYPE_CHECKING:
    from src.registry.verification import Loaded

pytestmark = pytest.mark.slow


class Reader:
    """A loaded version that keeps the captions that it is asked for."""

    contract = SimpleNamespace(labels=("calm",))

    def __init__(self) -> None:
        self.captions: list[str] = []

    def probabilities(self, rows: list[Row], first: int) -> list[list[float]]:
        self.captions += [caption for _, caption in rows]
        return [[1.0] for _ in rows]


def test_line_ends_are_unified() -> None:
    reader = Reader()
    serve.predict(cast("Loaded", reader), [(b"JFIF", text) for text in ("a good\r\nday\n", "a good\rday", " so ")])
    assert reader.captions == ["a good\nday", "a good\nday", " so "]


@pytest.fixture(scope="module")
def server(made: Path) -> Iterator[str]:
    """The champion, served."""
    port = free_port()
    words = ["models", "serve", "-m", "models:/mvsa-clip@champion", "--env-manager", "local", "-h", "127.0.0.1"]
    environment = {
        STORE: store_in(made),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
    }
    with (made.parent / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words, "-p", str(port)],
            cwd=made.parent,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address, process, made.parent / "serve.log")
        yield address
    finally:
        subprocess.run(["pkill", "-TERM", "-s", str(process.pid)], check=False)
        process.wait(timeout=30)


def _wait(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(240):
        time.sleep(0.5)
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/ping", timeout=5):
                return
        except OSError:
            continue
    raise AssertionError(log.read_text())


def ask(server: str, body: Any) -> tuple[int, Any]:
    """The status and the answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{server}/invocations", data=content, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def encoded(image: bytes) -> str:
    return base64.b64encode(image).decode()


def records(*rows: tuple[bytes, str]) -> dict[str, Any]:
    return {"dataframe_records": [{"image": encoded(image), "text": text} for image, text in rows]}


@pytest.fixture(scope="module")
def posts(made: Path) -> list[tuple[bytes, str]]:
    known = {post.id: post for post in read_posts(made / "outputs" / "prepare" / "posts.csv")}
    measured = read_predictions(made / "outputs" / "evaluate" / "clip" / "predictions.csv")
    return [((made / known[row.id].image).read_bytes(), known[row.id].caption) for row in measured]


def test_server_gives_evaluated_tones(server: str, made: Path, posts: list[tuple[bytes, str]]) -> None:
    measured = read_predictions(made / "outputs" / "evaluate" / "clip" / "predictions.csv")
    status, many = ask(server, records(*posts))
    assert status == 200
    assert [row["label"] for row in many["predictions"]] == [row.predicted for row in measured]
    _, one = ask(server, records(posts[0]))
    for tone in TONES:
        assert one["predictions"][0][tone] == pytest.approx(measured[0].probabilities[tone], abs=1e-4)


def test_json_formats_get_equal_answers(server: str, posts: list[tuple[bytes, str]]) -> None:
    (picture, text), *_ = posts
    row = {"image": encoded(picture), "text": text}
    url = {"image": f"data:image/jpeg;base64,{encoded(picture)}", "text": text}
    bodies = [
        {"dataframe_records": [url]},
        {"dataframe_split": {"columns": ["image", "text"], "data": [[row["image"], text]]}},
        {"instances": [row]},
        {"instances": [url]},
        {"inputs": [url]},
        {"inputs": {"image": [row["image"]], "text": [text]}},
    ]
    expected = ask(server, {"dataframe_records": [row]})
    assert expected[0] == 200
    assert [ask(server, body) for body in bodies] == [expected] * len(bodies)


def test_documented_evaluation_gives_accuracy(
    repository: Path, repo_root: Path, posts: list[tuple[bytes, str]]
) -> None:
    import mlflow
    from pandas import DataFrame

    measured = read_predictions(repository / "outputs" / "evaluate" / "clip" / "predictions.csv")
    table = DataFrame(posts, columns=["image", "text"]).assign(label=[row.actual for row in measured])
    (code,) = re.findall(
        r"```python\n(.*?mlflow\.models\.evaluate.*?)```", (repo_root / "docs" / "contract.md").read_text(), re.DOTALL
    )
    names = {"table": table}
    # Another test of this process may have set another store.
    mlflow.set_tracking_uri(store_in(repository))
    with mlflow.start_run():
        exec(code, names)  # noqa: S102 # the documentation's own
    right = [row.actual == row.predicted for row in measured]
    assert names["result"].metrics["accuracy_score"] == pytest.approx(sum(right) / len(right))


def bomb() -> bytes:
    """A picture of 64 million pixels in a few kilobytes."""
    content = BytesIO()
    Image.new("1", (8000, 8000)).save(content, "PNG")
    return content.getvalue()


def test_bad_input_gets_one_line(server: str, posts: list[tuple[bytes, str]]) -> None:
    picture, caption = posts[0]
    cases = [
        (records((b"no picture", caption)), "post 1 cannot be used: the image is no readable JPEG"),
        (records(posts[1], (bomb(), caption)), "post 2 cannot be used: the image is larger than 50,000,000 pixels"),
        (records((picture, "  ")), "post 1: the text is empty"),
        (records(posts[1], (picture, "a" * 10_000_000)), "post 2: the text has 10,000,000 characters, and 10,000 are"),
        (records((picture[: len(picture) // 2], caption)), "post 1 cannot be used: the image is truncated or damaged"),
    ]
    for body, line in cases:
        status, answer = ask(server, body)
        assert status == 400, answer
        assert answer["message"].startswith(line)
        assert "\n" not in answer["message"]
        assert "stack_trace" not in answer
    assert ask(server, records(posts[0]))[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [{"picture": "a", "caption": "b"}]},
        {"dataframe_records": [{"image": "/etc/passwd", "text": "b"}]},
        {"dataframe_records": [{"image": "https://example.org/a.jpg", "text": "b"}]},
        {"dataframe_records": [{"image": None, "text": "b"}]},
        {"dataframe_records": [{"image": 7, "text": 8}]},
        {"nothing": 1},
        b"no JSON",
    ],
)
def test_invalid_request_gets_4xx(server: str, posts: list[tuple[bytes, str]], body: Any) -> None:
    status, answer = ask(server, body)
    assert 400 <= status < 500, answer
    assert "root:" not in json.dumps(answer)
    assert ask(server, records(posts[0]))[0] == 200


def test_halves_allow_empty_caption(repository: Path, posts: list[tuple[bytes, str]]) -> None:
    loaded = registry.load(registry.uri_of("clip"))
    with pytest.raises(UserError, match="post 1: the text is empty"):
        registry.predict(loaded, [(posts[0][0], "")])
    (answer,) = registry.predict(loaded, [(posts[0][0], "")], halves=True)
    assert answer.label in TONES
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-4)
