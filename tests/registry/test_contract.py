"""The record of a contract: golden posts, reading and writing, tolerance."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.core.errors import UserError
from src.core.labels import TONES
from src.core.outputs import AlignedWeights, PretrainedWeights
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.registry.contract import (
    FORMAT,
    NUM_GOLDEN,
    Contract,
    GoldenPost,
    Search,
    choose_golden,
    read_contract,
    trained_parts,
)
from src.registry.contract_file import CONTRACT_FILE, HEADLINE_SCORES, write_contract


def post(number: int, tone: str) -> Post:
    return Post(str(number), f"data/{number}.jpg", "a day", tone, tone, tone, f"{number * 7919 % 1000:03}")


POSTS = [post(number, TONES[number % 3] if number < 9 else "positive") for number in range(40)]
CONTRACT = Contract(
    format=FORMAT,
    model="clip",
    labels=TONES,
    prompt="a {caption}",
    preprocessing="abc",
    dtype="float32",
    checkpoint=PretrainedWeights("openai/clip", "3d74", "full"),
    libraries={"torch": "2.13.0"},
    adapted_modules=("text.q_proj",),
    settings=TrainingConfig(readout="head", rank=8, alpha=16, dropout=0.0, lr=0.002),
    data_digest="aa",
    split_digest="bb",
    data_revision="cc.dir",
    code="dd",
    search=Search("clip-full", 3),
    validation=dict.fromkeys(HEADLINE_SCORES, 0.7),
    test=dict.fromkeys(HEADLINE_SCORES, 0.6),
    golden=(GoldenPost("1", "a0", "golden-0.jpg", "a caption: é", (0.5, -4.0, 1e-6)),),
)


def test_golden_posts_balance_tones() -> None:
    chosen = choose_golden(POSTS, TONES)
    assert sorted(Counter(post.label for post in chosen).values()) == [2, 3, 3]
    assert choose_golden(POSTS[::-1], TONES) == chosen


def test_common_tone_fills_up_rare_one() -> None:
    rare = [candidate for candidate in POSTS if candidate.label == "positive"] + [post(1, "negative")]
    assert Counter(candidate.label for candidate in choose_golden(rare, TONES)) == {
        "positive": NUM_GOLDEN - 1,
        "negative": 1,
    }
    assert len(choose_golden(POSTS[:5], TONES)) == 5


def test_written_contract_is_read(tmp_path: Path) -> None:
    write_contract(tmp_path, CONTRACT, {"golden-0.jpg": b"JFIF"})
    assert read_contract(tmp_path) == CONTRACT
    assert (tmp_path / "golden-0.jpg").read_bytes() == b"JFIF"


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / CONTRACT_FILE).read_text())
        change(content)
        (folder / CONTRACT_FILE).write_text(json.dumps(content))

    return edit


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda folder: (folder / CONTRACT_FILE).unlink(), "contract.json"),
        (lambda folder: (folder / CONTRACT_FILE).write_text("{"), "contract.json"),
        (lambda folder: (folder / CONTRACT_FILE).write_text("[]"), f"format than {FORMAT}"),
        (lambda folder: (folder / "golden-0.jpg").unlink(), "golden-0.jpg"),
        (edited(lambda content: content["golden"][0].update(image=".")), "is missing"),
        (edited(lambda content: content.update(format=1)), f"format than {FORMAT}"),
        (edited(lambda content: content.pop("prompt")), "prompt"),
        (edited(lambda content: content.pop("code")), "code"),
        (edited(lambda content: content["settings"].pop("rank")), "rank"),
        (edited(lambda content: content["validation"].pop("macro_f1")), "macro_f1"),
        (edited(lambda content: content.update(promt="")), "'promt'"),
        (edited(lambda content: content.update(golden=[])), "golden"),
        (edited(lambda content: content["golden"][0].update(image="../x.jpg")), "x.jpg"),
        (edited(lambda content: content["golden"][0].update(logits=[1.0])), "1 numbers for 3 labels"),
    ],
)
def test_incomplete_contract_raises(spoil: Callable[[Path], object], named: str, tmp_path: Path) -> None:
    write_contract(tmp_path, CONTRACT, {"golden-0.jpg": b"JFIF"})
    (tmp_path.parent / "x.jpg").touch()
    spoil(tmp_path)
    with pytest.raises(UserError, match=named) as raised:
        read_contract(tmp_path)
    assert type(raised.value) is UserError
    assert "\n" not in str(raised.value)


def test_coarser_precision_decides_tolerance() -> None:
    coarse = replace(CONTRACT, dtype="bfloat16")
    assert CONTRACT.tolerance("float32") == pytest.approx(1e-3 + 4e-4)
    assert CONTRACT.tolerance("bfloat16") == coarse.tolerance("float32") == pytest.approx(0.05 + 0.2)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, ["LoRA adapter", "head"]),
        ({"adapter": "dora", "readout": "verbalizer"}, ["DoRA adapter"]),
        ({"rank": 0}, ["head"]),
        ({"rank": 0, "unfreeze": "connector qformer", "readout": "verbalizer"}, ["connector", "qformer"]),
        ({"adapter": "ia3", "unfreeze": "connector"}, ["IA3 adapter", "connector", "head"]),
    ],
)
def test_trained_parts_are_named(changes: dict[str, Any], parts: list[str]) -> None:
    assert trained_parts(replace(CONTRACT, settings=replace(CONTRACT.settings, **changes))) == parts


def test_aligned_segments_are_named() -> None:
    checkpoint = replace(CONTRACT.checkpoint, aligned=AlignedWeights("aligned.safetensors", "a digest", ("connector",)))
    contract = replace(CONTRACT, checkpoint=checkpoint)
    assert trained_parts(contract)[:2] == ["LoRA adapter", "connector (aligned)"]
    unfrozen = replace(contract, settings=replace(contract.settings, unfreeze="connector"))
    assert "connector" in trained_parts(unfrozen) and "connector (aligned)" not in trained_parts(unfrozen)
