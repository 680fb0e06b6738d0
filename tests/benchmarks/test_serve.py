"""The loop of transformers that a served version is compared with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lib import transformers_server
from benchmarks.serve import require_golden_logits
from src.core.config import load_params
from src.core.errors import UserError
from src.core.records import Post
from src.modeling.base import ToneModel
from src.registry.contract import read_contract
from src.registry.export import write_files
from tests.made_versions import version_of, without_caption, without_image


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("clip", {"rank": 0}),
        ("clip", {"readout": "verbalizer"}),
        ("blip2", {"image_head": "linear", "prefix_dtype": "int8", "adapter_positions": "text"}),
        ("smol", {"readout": "verbalizer", "adapter_positions": "text", "image_head": "linear"}),
    ],
    ids=str,
)
def test_loop_answers_as_the_version(
    model: str,
    settings: dict[str, Any],
    made: Path,
    tiny_model: Callable[[str], ToneModel],
    posts: list[Post],
    repo_root: Path,
    tmp_path: Path,
) -> None:
    (registered,) = made.glob("outputs/register/*/contract")
    config = load_params(repo_root / "params.yaml").training_config(model, **settings)
    asked = [posts[0], without_image(posts[0], tmp_path), without_caption(posts[1])]
    loaded, artifacts = version_of(tmp_path, tiny_model(model), config, read_contract(registered), asked)
    snippet = write_files(loaded, artifacts, tmp_path / "export", merge=False)
    loop = transformers_server.load(loaded, snippet, tmp_path / "export")
    require_golden_logits(loop, tmp_path / "export")
    golden = tuple(replace(post, logits=post.logits[::-1]) for post in loop.contract.golden)
    with pytest.raises(UserError):
        require_golden_logits(replace(loop, contract=replace(loop.contract, golden=golden)), tmp_path / "export")
