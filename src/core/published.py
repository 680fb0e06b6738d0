"""What the study reports on the test part of the agreement subset of MVSA-Single, to stand beside our figures.

Shares between 0 and 1; None where the study gives no figure. Zero-shot, CLIP saw 1,000 posts and TinyLLaVA 2,000.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One model's figures in the study, without training (`zeroshot_`) and at its best."""

    zeroshot_accuracy: float | None
    zeroshot_macro_f1: float | None
    zeroshot_weighted_f1: float | None
    accuracy: float | None
    macro_f1: float | None
    weighted_f1: float | None


PUBLISHED = {
    "clip": Published(0.4166, None, None, 0.812, None, None),
    "blip2": Published(0.19, None, None, 0.86, None, None),
    "llava": Published(0.6628, 0.50, None, 0.8227, 0.80, None),
    "tinyllava": Published(None, None, 0.2922, 0.79, 0.74, 0.7857),
}
