"""Posts for saliency maps of a registered version's answers: the version itself is asked, such as an ensemble."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from PIL.Image import Image
from torch import Tensor

from src.data.images import open_image, pixels_of, placeholder, png_of
from src.registry import registry
from src.training.occlusion import ClassifiedImage, log_odds_of

if TYPE_CHECKING:
    from mlflow.pyfunc import PyFuncModel

# A larger image is reduced to this many pixels on its longer side, which bounds the memory of a batch.
LONGEST_SIDE = 1024
# Lower bound of a probability, whose logarithm must be a number. No file has rounded it.
_MIN_PROBABILITY = 1e-12


def classified_by(version: "PyFuncModel", image: Image) -> ClassifiedImage:
    """Return an image with a loaded version as its classifier.

    The image keeps its own size. Each member of an ensemble resizes and crops it in its own way.
    """
    labels = labels_of(version)
    ask = partial(_version_log_odds, version, labels)
    return ClassifiedImage(labels, _as_tensor(image), _as_tensor(open_image(placeholder())), ask)


def labels_of(version: "PyFuncModel") -> tuple[str, ...]:
    """Return the names of a loaded version's labels: its columns behind that of the predicted label."""
    _, *labels = version.metadata.get_output_schema().input_names()
    return tuple(labels)


def _as_tensor(image: Image) -> Tensor:
    """Return the pixels of an image, uint8[3, R, C], reduced to `LONGEST_SIDE`."""
    pixels, shape = pixels_of(image, LONGEST_SIDE)
    return torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(*shape, 3).permute(2, 0, 1)


def _version_log_odds(
    version: "PyFuncModel", labels: Sequence[str], pixels_B3RC: Tensor, captions: Sequence[str]
) -> Tensor:
    images = [
        png_of(pixels_RC3.contiguous().numpy().tobytes(), (len(pixels_RC3), pixels_RC3.shape[1]))
        for pixels_RC3 in pixels_B3RC.permute(0, 2, 3, 1)
    ]
    answers = registry.predict(version, list(zip(images, captions, strict=True)), halves=True)
    probabilities_BK = torch.tensor([[answer.probabilities[label] for label in labels] for answer in answers])
    return log_odds_of(probabilities_BK.double().clamp_min(_MIN_PROBABILITY).log())
