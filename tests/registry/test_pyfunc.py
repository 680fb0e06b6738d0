"""A version as MLflow's server asks it: each request in a thread of its own."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from src.registry.pyfunc import Answers, Row, set_pyfunc_model


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that are set."""
    models: list[Any] = []
    monkeypatch.setattr("mlflow.models.set_model", models.append)
    return models


def test_requests_are_answered_in_turn(made: list[Any]) -> None:
    inside: list[int] = []
    most = 0

    def load(_: Mapping[str, str]) -> str:
        return "state"

    def predict(_: str, rows: list[Row], halves: bool) -> Answers:
        nonlocal most
        inside.append(1)
        most = max(most, len(inside))
        time.sleep(0.02)
        inside.pop()
        return Answers(("calm",), [[1.0] for _ in rows])

    set_pyfunc_model(load, predict)
    (model,) = made
    model.load_context(SimpleNamespace(artifacts={}))
    posts = pd.DataFrame([[b"JFIF", "a good day"]], columns=["image", "text"])
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: model.predict(None, posts), range(4)))
    assert most == 1
    assert all(answer["calm"].tolist() == [1.0] for answer in answers)
