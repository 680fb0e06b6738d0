"""Covers: models of the sizes that benchmarks measure."""

from pathlib import Path

import pytest

from benchmarks.lib import sizes


@pytest.mark.parametrize(("name", "size"), [("clip", "medium"), ("tinyllava", "medium-336"), ("llava", "medium-32k")])
def test_few_captions_suffice(name: str, size: str, tmp_path: Path) -> None:
    sized = sizes.make(name, size, tmp_path, ["what a day", "so sad"])
    model = sized.load()
    assert model.backbone.config.get_text_config().vocab_size == sizes.VOCABULARY[size]
