import json
from dataclasses import asdict

import pytest

from src.core.config_parser import build
from src.core.errors import UsageError
from src.core.estimates import AblationResult, Comparison, SimilarityCorrelation, SimilarityQuartile, Verdict
from src.core.records import Interval

SHARE = Interval(0.5, None, 0.75)
CHANGE = Comparison(10, 2, 3, SHARE, SHARE, mcnemar_p=0.1, bootstrap_p=0.2, posts_needed=None)


@pytest.mark.parametrize(
    "estimate",
    [
        AblationResult({"accuracy": SHARE}, {}),
        AblationResult({"accuracy": SHARE}, {"accuracy": SHARE}, CHANGE, Verdict("cannot tell", 0.2)),
        SimilarityCorrelation(2, 0.3, None, 0.25, (SimilarityQuartile(0.1, 0.2, 1, SHARE),)),
    ],
)
def test_estimates_survive_json(estimate: AblationResult | SimilarityCorrelation) -> None:
    assert build(type(estimate), json.loads(json.dumps(asdict(estimate))), "file") == estimate


def test_unknown_verdict_is_refused() -> None:
    with pytest.raises(UsageError, match="verdict"):
        build(AblationResult, {"figures": {}, "leak_free": {}, "verdict": {"answer": "maybe", "p_holm": 1}}, "file")
