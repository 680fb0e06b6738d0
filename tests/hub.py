"""A replacement of the Hub for tests: weights under their published names, and a server that records requests."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from safetensors.torch import save_file
from torch import Tensor

from src.models.catalog import BUILT, MODELS, model_class

# The models whose checkpoints are on the Hub.
HUB_MODELS = tuple(name for name in MODELS if name not in BUILT)
WEIGHTS, INDEX, BIN = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"

# The published name for a module of transformers 5.23. Modules that are not listed have the same name in both.
# LLaVA: KEYS_TO_MODIFY_MAPPING of transformers' convert_llava_weights_to_hf.py at the time of these checkpoints (commit
# 01080c6). The vision tower had its own `vision_model` until transformers 5.6 (transformers 44431).
LLAVA_NAMES = {
    r"^lm_head": "language_model.lm_head",
    r"^model\.language_model": "language_model.model",
    r"^model\.vision_tower": "vision_tower.vision_model",
    r"^model\.multi_modal_projector": "multi_modal_projector",
}
RENAMED = {"clip": {}, "blip2": {}, "llava": LLAVA_NAMES, "tinyllava": LLAVA_NAMES}

COMMIT = re.compile(r"\b[0-9a-f]{40}\b")

# Load the named models as `scale: full` does, and print the threads that still run.
LOAD = """
import sys, threading
from pathlib import Path
import torch
from src.models.catalog import model_class, resolve_checkpoint
for name in sys.argv[1:]:
    model_class(name).load(resolve_checkpoint(name, "full", Path("unused"), []), torch.device("cpu"), torch.float32)
print(*(thread.name for thread in threading.enumerate()), sep="\\n")
"""


def published_state(name: str, backbone: Any) -> dict[str, Tensor]:
    """Return a model's weights under their names on the Hub."""
    state = {}
    for name_here, weight in backbone.state_dict().items():
        key = name_here
        for pattern, replacement in RENAMED[name].items():
            key = re.sub(pattern, replacement, key)
        state[key] = weight.clone()
    if name == "clip":
        config = backbone.config
        patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        state["text_model.embeddings.position_ids"] = torch.arange(config.text_config.max_position_embeddings)[None]
        state["vision_model.embeddings.position_ids"] = torch.arange(patches + 1)[None]
    return state


def write_weights(name: str, backbone: Any, folder: Path) -> None:
    """Write weights in the Hub's format: CLIP's as a `.bin`, others as safetensors, in the parts of an index."""
    state = published_state(name, backbone)
    if name == "clip":
        torch.save(state, folder / BIN)
        return
    if name == "blip2":
        del state["language_model.lm_head.weight"]  # shared with the embedding
    parts = dict.fromkeys(state, WEIGHTS)
    if (folder / INDEX).exists():
        published = json.loads((folder / INDEX).read_text())["weight_map"]
        parts = {key: published[key] for key in state}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    for file in set(parts.values()):
        save_file({key: state[key] for key in state if parts[key] == file}, folder / file, metadata={"format": "pt"})


def repository_folder(root: Path, name: str) -> Path:
    """Return the folder under `root` from which `serve_hub` serves a model's pinned commit."""
    spec = model_class(name).spec
    return root / spec.checkpoint / spec.revision


class FakeHub(ThreadingHTTPServer):
    """A server of the files under `root`, by repository and commit. It records every request."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """A handler that answers as the Hub does: a file comes with its commit and a digest."""

    @property
    def hub(self) -> FakeHub:
        assert isinstance(self.server, FakeHub)
        return self.server

    def do_HEAD(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        content = self.file() if "/resolve/" in self.path else self.listing()
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", COMMIT.findall(self.path)[0] if COMMIT.search(self.path) else "")
        self.send_header("Content-Length", str(len(content or b"")))
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content or b"")

    def file(self) -> bytes | None:
        """Return the content of a repository's file at a commit, or None if it does not exist."""
        path = self.hub.root / unquote(urlsplit(self.path).path).lstrip("/").replace("/resolve/", "/")
        return path.read_bytes() if path.is_file() else None

    def listing(self) -> bytes | None:
        """Return the list of a repository's files at a commit."""
        match = re.fullmatch(r"/api/models/(.+)/tree/(\w+)", urlsplit(self.path).path)
        if match is None:
            return None
        files = [path for path in sorted(self.hub.root.joinpath(*match.groups()).iterdir()) if path.is_file()]
        tree = [{"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0"} for path in files]
        return json.dumps(tree).encode()

    do_GET = do_POST = do_HEAD

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def serve_hub(root: Path) -> Iterator[FakeHub]:
    """Serve the checkpoints under `root` until the context ends."""
    with FakeHub(root) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fetch_models(root: Path, home: Path, names: Iterable[str], repo_root: Path) -> tuple[list[str], list[str]]:
    """Load models in another process from a `FakeHub`, with a cache under `home`.

    Returns the requests of that process, and the names of its threads at the end.
    """
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "OMP_NUM_THREADS": "1", "no_proxy": "127.0.0.1"}
    with serve_hub(root) as server:
        environment |= {"HF_ENDPOINT": server.address, "HF_HOME": str(home)}
        command = [sys.executable, "-c", LOAD, *names]
        process = subprocess.run(command, cwd=repo_root, env=environment, capture_output=True, text=True, timeout=600)
        assert process.returncode == 0, process.stderr
        return server.requests, process.stdout.splitlines()


def other_requests(requests: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the requests for anything but the pinned commits of these models."""
    specs = [model_class(name).spec for name in names]
    pinned = [
        re.compile(rf"(HEAD|GET) (/{spec.checkpoint}/resolve|/api/models/{spec.checkpoint}/tree)/{spec.revision}\b")
        for spec in specs
    ]
    return [request for request in requests if not any(pattern.match(request) for pattern in pinned)]
