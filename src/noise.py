"""Stage `noise`: list labels that are likely wrong, and estimate the best possible score on such labels.

python -m src.noise
"""

from typing import TYPE_CHECKING

from src.cli.options import command
from src.cli.output import say, table, warn
from src.core.config import load_params
from src.core.format import percent, percent_interval
from src.core.paths import MISLABELLED_TABLE, NOISE

if TYPE_CHECKING:
    from src.core.estimates import DuplicateAgreement
    from src.core.outputs import ConfidentLearning, NoiseOutput


@command(example="python -m src.noise")
def main() -> None:
    """List the posts whose label is likely wrong, and estimate the noise of all labels; write outputs/noise/."""
    params = load_params()
    from src.pipeline.noise import run_noise

    output = run_noise(params.models, params.label_names, params.seed)
    for name, reason in output.omitted.items():
        warn(f"{name.replace('_', ' ')} is left out: {reason}")
    if output.confident_learning:
        _print_confident_learning(output.confident_learning)
    _print_agreement(output)


def _print_confident_learning(learned: "ConfidentLearning") -> None:
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in learned.weights.items())
    say(f"{learned.posts:,} posts with out-of-fold predictions by {weights} (weights)")
    say(
        f"confident learning: {percent(learned.noise_rate)} of labels wrong, hard posts included; "
        f"{learned.flagged:,} posts in {NOISE / MISLABELLED_TABLE}"
    )


def _print_agreement(output: "NoiseOutput") -> None:
    columns = ["alike in", "duplicates", "groups", "in conflict", "disagree", "wrong", "best", "best of all"]
    for protocol, agreement_of in output.near_duplicates.items():
        rows = [[shared, *_cells(agreement)] for shared, agreement in agreement_of.items()]
        table(f"Agreement of {protocol} labels among near-duplicates (95% intervals)", columns, rows)
    say(
        "duplicates: posts with a near-duplicate. wrong: share of labels that are wrong, if labels err independently. "
        "best: highest accuracy on these posts of a classifier that gives near-duplicates the same label. "
        "best of all: the same on all posts, if all others are correct."
    )


def _cells(agreement: "DuplicateAgreement | None") -> list[object]:
    if agreement is None:
        return [0, *[None] * 6]
    shares = [agreement.disagreement, agreement.noise_rate, agreement.majority_accuracy]
    return [
        agreement.near_duplicates,
        agreement.groups,
        agreement.conflicting_groups,
        *map(percent_interval, shares),
        percent(agreement.majority_accuracy_all),
    ]


if __name__ == "__main__":
    main()
