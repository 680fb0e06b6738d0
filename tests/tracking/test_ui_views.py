"""The saved view of trials."""

import json

from src.tracking.ui_views import trials_view


def test_view_shows_searched_settings() -> None:
    state = json.loads(json.loads(trials_view(["rank", "lr"]))["state"])
    assert {"params.`rank`", "params.`lr`", "metrics.`best_val_macro_f1`"} <= set(state["selectedColumns"])
    (axes,) = [chart["selectedParams"] for chart in state["compareRunCharts"] if chart["type"] == "PARALLEL"]
    assert axes == ["rank", "lr"]
