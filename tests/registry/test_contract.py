"""The contract as a record: which posts it takes, what it refuses to be read from, how much may differ."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.core.errors import UserError
from src.core.labels import TONES
from src.core.outputs import PretrainedWeights
from src.core.records import Post
from src.registry.contract import (
    CONTRACT_FILE,
    FORMAT,
    NUM_GOLDEN,
    Contract,
    GoldenPost,
    Search,
    choose_golden,
    read_contract,
    write_contract,
)


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
    settings={"rank": 8, "lr": 0.002, "adapter": "lora", "gradient_checkpointing": False},
    data_digest="aa",
    split_digest="bb",
    data_revision="cc.dir",
    code="dd",
    search=Search("clip-full", 3),
    validation={"macro_f1": 0.7},
    test={"macro_f1": 0.6},
    golden=(GoldenPost("1", "a0", "golden-0.jpg", "a caption: é", (0.5, -4.0, 1e-6)),),
)


def test_golden_posts_are_spread_over_the_tones_and_do_not_depend_on_the_order() -> None:
    chosen = choose_golden(POSTS)
    assert sorted(Counter(each.label for each in chosen).values()) == [2, 3, 3]
    assert choose_golden(POSTS[::-1]) == chosen


def test_another_tones_posts_fill_up_what_a_rare_tone_has_not() -> None:
    rare = [each for each in POSTS if each.label == "positive"] + [post(1, "negative")]
    assert Counter(each.label for each in choose_golden(rare)) == {"positive": NUM_GOLDEN - 1, "negative": 1}
    assert len(choose_golden(POSTS[:5])) == 5


def test_what_is_written_is_read(tmp_path: Path) -> None:
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
    ("spoil", "message"),
    [
        (lambda folder: (folder / CONTRACT_FILE).unlink(), "contract.json is missing: the version has no contract"),
        (lambda folder: (folder / CONTRACT_FILE).write_text("{"), "contract.json is damaged"),
        (lambda folder: (folder / CONTRACT_FILE).write_text("[]"), "is of another format than 2"),
        (lambda folder: (folder / "golden-0.jpg").unlink(), "golden-0.jpg is missing: the picture of golden post 1"),
        (edited(lambda content: content.update(format=1)), "is of another format than 2"),
        (edited(lambda content: content.pop("prompt")), "missing prompt"),
        (edited(lambda content: content.update(promt="")), "unknown key 'promt'; did you mean 'prompt'?"),
        (edited(lambda content: content.update(golden=[])), "has no golden posts"),
        (edited(lambda content: content["golden"][0].update(image="../x.jpg")), "x.jpg is missing"),
        (edited(lambda content: content["golden"][0].update(logits=[1.0])), "golden post 1 has 1 logits for 3 labels"),
    ],
)
def test_a_contract_that_is_not_whole_is_refused(spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    write_contract(tmp_path, CONTRACT, {"golden-0.jpg": b"JFIF"})
    (tmp_path.parent / "x.jpg").touch()
    spoil(tmp_path)
    with pytest.raises(UserError, match=message.replace("?", r"\?")) as refusal:
        read_contract(tmp_path)
    assert "\n" not in str(refusal.value)


def test_the_coarser_precision_decides_how_much_may_differ() -> None:
    coarse = replace(CONTRACT, dtype="bfloat16")
    assert CONTRACT.tolerance("float32") == pytest.approx(1e-3 + 4e-4)
    assert CONTRACT.tolerance("bfloat16") == coarse.tolerance("float32") == pytest.approx(0.05 + 0.2)
