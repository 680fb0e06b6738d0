"""Posts for saliency maps of a registered version's answers: the version itself is asked, such as an ensemble."""

from collections.abc import Sequence
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from src.registry import registry
from src.training.occlusion import ClassifiedImage, log_odds_of

if TYPE_CHECKING:
    from mlflow.pyfunc import PyFuncModel

# A larger image is reduced to this many pixels on its longer side, which bounds the memory of a batch.
LONGEST_SIDE = 1024
# The least probability. A classifier of captions may give 0, which has no logarithm.
LEAST = 1e-12


def classified_by(version: "PyFuncModel", image: Image.Image) -> ClassifiedImage:
    """Return an image with a loaded version as its classifier.

    The image keeps its own size. Each member of an ensemble resizes and crops it in its own way.
    """
    labels = labels_of(version)
    reduced = image.convert("RGB")
    reduced.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    pixels_RC3 = torch.frombuffer(bytearray(reduced.tobytes()), dtype=torch.uint8).view(
        reduced.height, reduced.width, 3
    )
    return ClassifiedImage(labels, pixels_RC3.permute(2, 0, 1), partial(_version_log_odds, version, labels))


def labels_of(version: "PyFuncModel") -> tuple[str, ...]:
    """Return the names of a loaded version's labels: its columns behind that of the predicted label."""
    _, *labels = version.metadata.get_output_schema().input_names()
    return tuple(labels)


def _version_log_odds(
    version: "PyFuncModel", labels: Sequence[str], pixels_B3RC: Tensor, captions: Sequence[str]
) -> Tensor:
    rows = [(_png(pixels_3RC), caption) for pixels_3RC, caption in zip(pixels_B3RC, captions, strict=True)]
    answers = registry.predict(version, rows, halves=True)
    probabilities_BK = torch.tensor([[answer.probabilities[label] for label in labels] for answer in answers])
    return log_odds_of(probabilities_BK.double().clamp_min(LEAST).log())


def _png(pixels_3RC: Tensor) -> bytes:
    """Return an image as a file without loss, which a version decodes again."""
    content = BytesIO()
    _, rows, columns = pixels_3RC.shape
    pixels = bytes(pixels_3RC.permute(1, 2, 0).contiguous().numpy())
    Image.frombytes("RGB", (columns, rows), pixels).save(content, "PNG", compress_level=1)
    return content.getvalue()
