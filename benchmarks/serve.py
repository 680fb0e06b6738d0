"""Throughput and latency of MLflow's server for a champion, with 1, 8 and 32 clients, beside loops without a server.

python -m benchmarks.serve --model clip --posts 200

All classify the same posts of data/, whose bytes are in memory. Each request holds one post and goes over loopback. The
loops run in this process: transformers and peft alone, by the code of the version's model card
(benchmarks/lib/transformers_server.py), and the project's model, loaded from the version's files. The transformers loop
must first reproduce the logits of the golden posts. The benchmark needs a registered champion (`dvc repro`).
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
    from benchmarks.lib.transformers_server import TransformersModel

CLIENTS = (1, 8, 32)
T = TypeVar("T")
# Seconds of all requests together, and of single requests.
Timed = tuple[float, list[float]]


@command(example="python -m benchmarks.serve --model clip --posts 200")
@model_option(MODELS)
@click.option("--posts", type=click.IntRange(min=64), default=200, help="Number of requests per measurement.")
def main(model: str, posts: int) -> None:
    """Time MLflow's server: posts per second, median and 99th percentile of a request."""
    known = read_posts(POSTS)
    rows = [(Path(post.image).read_bytes(), post.caption) for post in (known * (posts // len(known) + 1))[:posts]]
    times = _time_loops(model, rows)
    with _server(model) as port:
        for clients in CLIENTS:
            times[f"server, {clients} clients"] = _time_requests(port, rows, clients)
    columns = ["way", "posts/s", "p50 ms", "p99 ms"]
    table(f"{model}, {posts} posts", columns, [_row(way, posts, *timed) for way, timed in times.items()])


def _row(way: str, posts: int, wall_s: float, times_s: Sequence[float]) -> list[object]:
    cuts = quantiles(times_s, n=100, method="inclusive")
    return [way, round(posts / wall_s, 1), round(1000 * cuts[49], 1), round(1000 * cuts[98], 1)]


def _time_loops(model: str, rows: Sequence[Row]) -> dict[str, Timed]:
    """Time two loops with the same weights."""
    from benchmarks.lib import transformers_server
    from src.registry.export import write_files
    from src.registry.loading import compute_logits, load_version
    from src.registry.pyfunc import artifacts_in

    _, version = registry.version_at(registry.uri_of(model))
    with TemporaryDirectory() as folder:
        artifacts = artifacts_in(registry.download(version, Path(folder)))
        loaded = load_version(artifacts, "cpu")
        exported = Path(folder) / "exported"
        snippet = write_files(loaded, artifacts, exported, merge=False)
        baseline = transformers_server.load(loaded, snippet, exported)
        require_golden_logits(baseline, exported)
        compute_logits(loaded.model, rows[:1])
        return {
            "transformers loop": _timed(rows, 1, baseline.answer),
            "project loop": _timed(rows, 1, lambda row: compute_logits(loaded.model, [row])),
        }


def require_golden_logits(baseline: "TransformersModel", folder: Path) -> None:
    """Raise UserError unless a model answers the golden posts of an exported folder as its contract says."""
    import torch

    golden = baseline.contract.golden
    rows = [((folder / post.image).read_bytes(), post.caption) for post in golden]
    logits_BK = torch.cat([baseline.answer(row) for row in rows])
    difference = float((logits_BK - torch.tensor([post.logits for post in golden])).abs().max())
    # Written with `not`, so that NaN fails too.
    if not difference <= baseline.contract.tolerance(baseline.contract.dtype):
        raise UserError(f"golden logits of the transformers loop differ by {difference:.2g}: it is not the same model")


def _time_requests(port: int, rows: Sequence[Row], clients: int) -> Timed:
    bodies = [
        json.dumps({"dataframe_records": [{"image": base64.b64encode(image).decode(), "text": text or "-"}]})
        for image, text in rows
    ]
    return _timed(bodies, clients, lambda body: _request(port, body))


def _request(port: int, body: str) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=300)) as connection:
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise UserError(f"the server answers {answer.status}: {content[:200]!r}")


def _timed(work: Sequence[T], clients: int, do: Callable[[T], object]) -> Timed:
    def seconds_of(item: T) -> float:
        begun = time.perf_counter()
        do(item)
        return time.perf_counter() - begun

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = list(pool.map(seconds_of, work))
    return time.perf_counter() - begun, times


@contextmanager
def _server(model: str) -> Iterator[int]:
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
    raise UserError("the server ended before it answered: run `mlflow models serve` by hand to see why")


if __name__ == "__main__":
    main()
