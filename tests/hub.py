"""The Hub as tests need it: weights under their publishers' names, and a server of checkpoints that notes requests."""

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

from src.models.catalog import model_class

WEIGHTS, INDEX, BIN = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"

# How a module of transformers 5.23 is called in the published file; what is not here is called the same.
# LLaVA: the names that convert_llava_weights_to_hf.py of transformers made when these checkpoints were (commit
# 01080c6), KEYS_TO_MODIFY_MAPPING; the vision tower had a `vision_model` of its own until 5.6 (transformers 44431).
LLAVA_NAMES = {
    r"^lm_head": "language_model.lm_head",
    r"^model\.language_model": "language_model.model",
    r"^model\.vision_tower": "vision_tower.vision_model",
    r"^model\.multi_modal_projector": "multi_modal_projector",
}
RENAMED = {"clip": {}, "blip2": {}, "llava": LLAVA_NAMES, "tinyllava": LLAVA_NAMES}

COMMIT = re.compile(r"\b[0-9a-f]{40}\b")

# Loads the models that are named as `scale: full` does, and says which threads are left.
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
    """Return a model's weights under the names that they bear on the Hub."""
    state = {}
    for own, weight in backbone.state_dict().items():
        key = own
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
    """Write weights as they lie on the Hub: CLIP's as a `.bin`, others as safetensors, in parts where an index is."""
    state = published_state(name, backbone)
    if name == "clip":
        torch.save(state, folder / BIN)
        return
    if name == "blip2":
        del state["language_model.lm_head.weight"]  # it is the embedding's
    parts = dict.fromkeys(state, WEIGHTS)
    if (folder / INDEX).exists():
        published = json.loads((folder / INDEX).read_text())["weight_map"]
        parts = {key: published[key] for key in state}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    for file in set(parts.values()):
        save_file({key: state[key] for key in state if parts[key] == file}, folder / file, metadata={"format": "pt"})


def place_of(root: Path, name: str) -> Path:
    """Return the folder under `root` from which `served` hands out a model's pinned commit."""
    spec = model_class(name).spec
    return root / spec.checkpoint / spec.revision


class HubStandIn(ThreadingHTTPServer):
    """Hands out the files under `root`, by repository and commit, and nothing else; notes all that it is asked."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers as the Hub does: a file comes with its commit and a digest."""

    @property
    def hub(self) -> HubStandIn:
        assert isinstance(self.server, HubStandIn)
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
        """Return the content of a repository's file at a commit, if it is there."""
        path = self.hub.root / unquote(urlsplit(self.path).path).lstrip("/").replace("/resolve/", "/")
        return path.read_bytes() if path.is_file() else None

    def listing(self) -> bytes | None:
        """Return the list of a repository's files at a commit."""
        asked = re.fullmatch(r"/api/models/(.+)/tree/(\w+)", urlsplit(self.path).path)
        if asked is None:
            return None
        files = [path for path in sorted(self.hub.root.joinpath(*asked.groups()).iterdir()) if path.is_file()]
        tree = [{"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0"} for path in files]
        return json.dumps(tree).encode()

    do_GET = do_POST = do_HEAD

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def served(root: Path) -> Iterator[HubStandIn]:
    """Serve the checkpoints under `root` for as long as the context lasts."""
    with HubStandIn(root) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fetched(root: Path, home: Path, names: Iterable[str], repo_root: Path) -> tuple[list[str], list[str]]:
    """Load models in a process of its own, from a stand-in for the Hub, with what is kept under `home`.

    Returns the requests that it made, and the threads that it had at its end.
    """
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "OMP_NUM_THREADS": "1", "no_proxy": "127.0.0.1"}
    with served(root) as server:
        environment |= {"HF_ENDPOINT": server.address, "HF_HOME": str(home)}
        command = [sys.executable, "-c", LOAD, *names]
        done = subprocess.run(command, cwd=repo_root, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return server.requests, done.stdout.splitlines()


def strangers(requests: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the requests that are for something else than the pinned commits of these models."""
    specs = [model_class(name).spec for name in names]
    pinned = [
        re.compile(rf"(HEAD|GET) (/{spec.checkpoint}/resolve|/api/models/{spec.checkpoint}/tree)/{spec.revision}\b")
        for spec in specs
    ]
    return [request for request in requests if not any(pattern.match(request) for pattern in pinned)]
