"""The model that MLflow loads: the file itself is what a registered version runs, with this package beside it.

mlflow models serve --env-manager local -m models:/mvsa-clip@champion
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.labels import TONES
from src.core.records import read_json
from src.services.registry import Answer, Row, publish

if TYPE_CHECKING:
    from src.models.base import ToneModel

BATCH_SIZE = 32


def load(artifacts: Mapping[str, str]) -> "ToneModel":
    """The base with its adapter on, from the files of a version; a base made on the spot travels with it."""
    from src.learning import lora
    from src.learning.workspace import load_model
    from src.models.base import Checkpoint

    checkpoint = Checkpoint(**read_json(Path(artifacts["checkpoint"])))
    if "base" in artifacts:
        checkpoint = replace(checkpoint, source=artifacts["base"])
    model = load_model(read_json(Path(artifacts["model"]))["name"], checkpoint)
    lora.load(model, Path(artifacts["adapter"]))
    return model


def predict(model: "ToneModel", rows: list[Row]) -> list[Answer]:
    """The tone of each post, with its probabilities."""
    from src.data.images import open_image
    from src.learning.scoring import logits_of

    answers: list[Answer] = []
    for start in range(0, len(rows), BATCH_SIZE):
        batch = rows[start : start + BATCH_SIZE]
        logits_BK = logits_of(model, [open_image(image) for image, _ in batch], [text for _, text in batch])
        for probabilities in logits_BK.softmax(dim=-1).tolist():
            tone = TONES[probabilities.index(max(probabilities))]
            answers.append((tone, *probabilities))
    return answers


# A file that MLflow loads says at its end what the model is.
if __name__ != "src.serve":
    publish(load, predict)
