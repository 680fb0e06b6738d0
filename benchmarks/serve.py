"""The champion behind MLflow's server: posts a second and latency at 1, 8 and 32 clients, beside loops without one.

python -m benchmarks.serve --model clip --posts 200

All answer the same posts of data/, whose bytes are in memory. The server is asked for one post a request, on loopback.
The loops are in this process: the bare one is transformers and peft alone (benchmarks/bare.py), with one post at a time
and with 32; the other is the project's model, loaded from the version's own files. The bare one must give the golden
posts their logits. To be run where a champion is registered (`dvc repro`).
"""

import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

import click

from src.cli.options import command, model_option
from src.cli.output import table
from src.core.errors import UserError
from src.core.paths import POSTS
from src.core.records import read_posts
from src.models.catalog import MODELS
from src.registry import registry
from src.registry.pyfunc import Row
from src.tracking.store import tracking_uri

if TYPE_CHECKING:
    from benchmarks.bare import Bare

CLIENTS = (1, 8, 32)
BATCH_SIZE = 32
T = TypeVar("T")
Timed = tuple[float, list[float]]


@command(example="python -m benchmarks.serve --model clip --posts 200")
@model_option(MODELS)
@click.option("--posts", type=click.IntRange(min=64), default=200, help="Requests a measurement.")
def main(model: str, posts: int) -> None:
    """Print posts a second and the 50th and 99th percentile of the seconds that a request takes."""
    known = read_posts(POSTS)
    rows = [(Path(post.image).read_bytes(), post.caption) for post in (known * (posts // len(known) + 1))[:posts]]
    found = _in_process(model, rows)
    with _served(model) as port:
        for clients in CLIENTS:
            found[f"server, {clients} clients"] = _asked(port, rows, clients)
    columns = ["way", "posts/s", "p50 ms", "p99 ms"]
    table(f"{model}, {posts} posts", columns, [_row(way, posts, *timed) for way, timed in found.items()])


def _row(way: str, posts: int, wall_s: float, times_s: Sequence[float]) -> list[object]:
    cuts = quantiles(times_s, n=100, method="inclusive")
    return [way, round(posts / wall_s, 1), round(1000 * cuts[49], 1), round(1000 * cuts[98], 1)]


def _in_process(model: str, rows: Sequence[Row]) -> dict[str, Timed]:
    """The same weights in three loops; a time is that of a batch."""
    from benchmarks import bare
    from src.registry.export import write_files
    from src.registry.loading import answer, load_version
    from src.registry.pyfunc import artifacts_in

    _, version = registry.version_at(registry.uri_of(model))
    batches = [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
    with TemporaryDirectory() as folder:
        artifacts = artifacts_in(registry.download(version, Path(folder)))
        loaded = load_version(artifacts, "cpu")
        exported = Path(folder) / "exported"
        write_files(loaded, artifacts, exported, merge=False)
        peer = bare.load(exported)
        _require_golden(peer, exported)
        answer(loaded.model, rows[:1])
        return {
            "bare loop": _timed(rows, 1, lambda row: peer.answer([row])),
            f"bare loop, batches of {BATCH_SIZE}": _timed(batches, 1, peer.answer),
            "own loop": _timed(rows, 1, lambda row: answer(loaded.model, [row])),
        }


def _require_golden(peer: "Bare", folder: Path) -> None:
    import torch

    golden = peer.contract.golden
    found_BK = peer.answer([((folder / post.image).read_bytes(), post.caption) for post in golden])
    off = float((found_BK - torch.tensor([post.logits for post in golden])).abs().max())
    if not off <= peer.contract.tolerance(peer.contract.dtype):
        raise UserError(f"the bare loop's golden logits are off by {off:.2g}: it is not the same model")


def _asked(port: int, rows: Sequence[Row], clients: int) -> Timed:
    bodies = [
        json.dumps({"dataframe_records": [{"image": base64.b64encode(image).decode(), "text": text or "-"}]})
        for image, text in rows
    ]
    return _timed(bodies, clients, lambda body: _ask(port, body))


def _ask(port: int, body: str) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=300)) as connection:
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise UserError(f"the server answers {answer.status}: {content[:200]!r}")


def _timed(work: Sequence[T], clients: int, do: Callable[[T], object]) -> Timed:
    def one(item: T) -> float:
        begun = time.perf_counter()
        do(item)
        return time.perf_counter() - begun

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = list(pool.map(one, work))
    return time.perf_counter() - begun, times


@contextmanager
def _served(model: str) -> Iterator[int]:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    words = ["models", "serve", "-m", registry.uri_of(model), "--env-manager", "local", "-p", str(port)]
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri(), "PATH": programs}
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait(port, process)
        yield port
    finally:
        subprocess.run(["pkill", "-TERM", "-s", str(process.pid)], check=False)
        process.wait()


def _wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        time.sleep(0.5)
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
                connection.request("GET", "/ping")
                connection.getresponse()
                return
        except OSError:
            continue
    raise UserError("the server has ended before it answered: run `mlflow models serve` by hand to see why")


if __name__ == "__main__":
    main()
