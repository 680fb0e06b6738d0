"""Ensemble selection against a case by hand, and its properties on simulated systems."""

import numpy as np
import pytest
from scipy.special import softmax

from src.core.records import Prediction
from src.evaluation.calibration import log_loss
from src.evaluation.ensemble import Bagging, Selection, answers_of, best_prefix, mean_of, select

LABELS = ("bad", "so-so", "good", "best")
WHOLE = Bagging(bags=1, share=1.0, seed=0)
BAGS = Bagging(bags=10, share=0.5, seed=3)
Library = dict[str, list[Prediction]]


def predictions(rows: list[list[float]], actual: list[str], labels: tuple[str, ...] = LABELS) -> list[Prediction]:
    return [
        Prediction(str(key), label, labels[row.index(max(row))], dict(zip(labels, row, strict=True)))
        for key, (row, label) in enumerate(zip(rows, actual, strict=True))
    ]


def simulated(num_systems: int, num_posts: int = 200, seed: int = 0) -> Library:
    """Systems that see the same signal with noise of their own, the later ones with more."""
    rng = np.random.default_rng(seed)
    actual_N = rng.integers(0, len(LABELS), num_posts)
    signal_NK = 2 * np.eye(len(LABELS))[actual_N]
    actual = [LABELS[place] for place in actual_N]
    return {
        f"system {number}": predictions(
            softmax(signal_NK + rng.normal(0, 1 + number / 4, signal_NK.shape), axis=1).tolist(), actual
        )
        for number in range(num_systems)
    }


def two_sided() -> Library:
    """Two systems of two labels: each is sure of one post and wrong about the other; a third knows nothing."""
    actual = ["bad", "good"]
    return {
        "left": predictions([[0.8, 0.2], [0.8, 0.2]], actual, ("bad", "good")),
        "right": predictions([[0.1, 0.9], [0.1, 0.9]], actual, ("bad", "good")),
        "vague": predictions([[0.3, 0.7], [0.7, 0.3]], actual, ("bad", "good")),
    }


def test_weights_of_case_by_hand() -> None:
    # The likelihoods of the actual labels are left (.8, .2), right (.1, .9), vague (.3, .3). Single: left has
    # log .16 / 2, the highest; right and vague have log .09 / 2. With right, left has (.45, .55): log .2475 / 2. The
    # product (.1 + .7w)(.9 - .7w) is highest at w = 4/7, where it is .25, and 4 lefts with 3 rights reach it.
    selection = select(two_sided(), WHOLE)
    assert selection.weights == pytest.approx({"left": 4 / 7, "right": 3 / 7})
    assert list(selection.weights) == ["left", "right"]
    assert log_loss(mean_of(two_sided(), selection.weights)) == pytest.approx(-np.log(0.25) / 2)


@pytest.mark.parametrize("bagging", [WHOLE, BAGS])
@pytest.mark.parametrize("num_systems", [1, 2, 3, 8])
def test_weights_are_positive_and_sum_to_one(num_systems: int, bagging: Bagging) -> None:
    library = simulated(num_systems)
    weights = select(library, bagging).weights
    assert sum(weights.values()) == pytest.approx(1)
    assert all(weight > 0 for weight in weights.values())
    assert set(weights) <= set(library)


@pytest.mark.parametrize("bagging", [WHOLE, BAGS])
@pytest.mark.parametrize("seed", range(4))
def test_ensemble_is_never_worse_than_best_single(seed: int, bagging: Bagging) -> None:
    library = simulated(5, num_posts=40, seed=seed)
    singles = [log_loss(rows) for rows in library.values()]
    assert log_loss(mean_of(library, select(library, bagging).weights)) <= min(singles) + 1e-12


def test_bags_without_the_best_give_way_to_it() -> None:
    actual = ["good"] * 3
    useless = {name: predictions([[0.9, 0.03, 0.03, 0.04]] * 3, actual) for name in "abcdef"}
    right = {"right": predictions([[0.01, 0.01, 0.97, 0.01]] * 3, actual)}
    assert select({**useless, **right}, BAGS).weights == {"right": 1.0}


@pytest.mark.parametrize("bagging", [WHOLE, BAGS])
def test_order_of_library_changes_nothing(bagging: Bagging) -> None:
    library = simulated(6)
    backwards = dict(reversed(library.items()))
    assert select(library, bagging) == select(backwards, bagging)


def test_same_seed_gives_same_selection() -> None:
    library = simulated(6)
    assert select(library, BAGS) == select(library, BAGS)
    assert select(library, BAGS) != select(library, Bagging(BAGS.bags, BAGS.share, BAGS.seed + 1))


def test_bagging_spreads_weights_over_more_members() -> None:
    library = simulated(8, num_posts=60)
    assert len(select(library, BAGS).weights) > len(select(library, WHOLE).weights)


def test_probability_of_zero_is_survived() -> None:
    rows = predictions([[0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]], ["best", "good"])
    assert select({"sure": rows}, WHOLE).weights == {"sure": 1.0}


def test_mean_predicts_the_most_probable_label() -> None:
    library = two_sided()
    mean = mean_of(library, {"left": 0.25, "right": 0.75})
    assert [row.probabilities for row in mean] == [pytest.approx({"bad": 0.275, "good": 0.725})] * 2
    assert [(row.id, row.actual, row.predicted) for row in mean] == [("0", "bad", "good"), ("1", "good", "good")]


def test_temperature_of_answers_comes_from_validation() -> None:
    # All systems make the same error of confidence, so the mean has it too.
    library = simulated(3, num_posts=400)
    selection = select(library, WHOLE)
    unscaled = Selection(selection.weights, 1.0)
    assert selection.temperature != 1
    assert log_loss(answers_of(library, selection)) < log_loss(answers_of(library, unscaled))
    predicted = [row.predicted for row in answers_of(library, selection)]
    assert predicted == [row.predicted for row in mean_of(library, selection.weights)]


def test_best_prefix_stops_before_harm() -> None:
    library = two_sided()
    k, losses = best_prefix([library["left"], library["right"], library["vague"]])
    assert k == 2
    assert losses == pytest.approx([-np.log(0.16) / 2, -np.log(0.2475) / 2, -np.log(0.4 * 1.4 / 3) / 2])


def test_best_prefix_of_equal_systems_is_one() -> None:
    rows = two_sided()["left"]
    assert best_prefix([rows, rows, rows])[0] == 1
