"""What the study reports on the test part of the agreement subset of MVSA-Single, to stand beside our figures.

Shares between 0 and 1; None where the study gives no figure. Zero-shot, CLIP saw 1,000 posts and TinyLLaVA 2,000.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """Scores of one row of the study's results."""

    accuracy: float | None = None
    macro_f1: float | None = None
    weighted_f1: float | None = None


@dataclass(frozen=True)
class Published:
    """One model's figures in the study: without training, and at its best."""

    zeroshot: Figures = Figures()
    tuned: Figures = Figures()


PUBLISHED = {
    "clip": Published(Figures(accuracy=0.4166), Figures(accuracy=0.812)),
    "blip2": Published(Figures(accuracy=0.19), Figures(accuracy=0.86)),
    "llava": Published(Figures(accuracy=0.6628, macro_f1=0.50), Figures(accuracy=0.8227, macro_f1=0.80)),
    "tinyllava": Published(Figures(weighted_f1=0.2922), Figures(accuracy=0.79, macro_f1=0.74, weighted_f1=0.7857)),
}
