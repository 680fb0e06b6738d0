"""A saved view of MLflow's run table: trials alone, the best first, with the columns and charts that tell them apart.

MLflow keeps such views as tags of the experiment and offers them under "Views".
"""

import json
import time
from collections.abc import Sequence
from typing import Any

_KEY = "trials"
VIEW_TAG = f"mlflow.sharedViewState.{_KEY}"
_SCORE = "best_val_macro_f1"
_METRICS = (_SCORE, "best_val_accuracy")
# Of a chart and of a column, in pixels: with MLflow's own, axes and names lie on top of each other.
_CHART_HEIGHT, _COLUMN_WIDTH = 420, 160


def trials_view(settings: Sequence[str]) -> str:
    """The view of trials that differ in these settings, as the value of the tag `VIEW_TAG`."""
    metrics = [f"metrics.`{name}`" for name in _METRICS]
    columns = [
        *metrics,
        *(f"params.`{name}`" for name in settings),
        *(f"tags.`{name}`" for name in ("state", "reason")),
    ]
    state = {
        "searchFilter": "tags.stage = 'trial'",
        "orderByKey": f"metrics.`{_SCORE}`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(metrics, _COLUMN_WIDTH),
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [_section()],
        "compareRunCharts": _charts(settings),
    }
    now_ms = time.time_ns() // 1_000_000
    return json.dumps(
        {"name": "Trials, the best first", "createdAt": now_ms, "updatedAt": now_ms, "state": json.dumps(state)}
    )


def view_address(experiment_id: str, *, charts: bool = False) -> str:
    """Where MLflow shows the view, as a table or as charts."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={_KEY}{mode}"


def _section() -> dict[str, Any]:
    shape = {"columns": 1, "cardHeight": _CHART_HEIGHT}
    return {"uuid": _KEY, "name": "Trials", "display": True, "isReordered": False, **shape}


def _charts(settings: Sequence[str]) -> list[dict[str, Any]]:
    parallel: dict[str, Any] = {
        "type": "PARALLEL",
        "selectedParams": list(settings),
        "selectedMetrics": [_SCORE],
        "showAllRuns": True,
    }
    curves: dict[str, Any] = {"type": "LINE", "metricKey": "val_macro_f1", "selectedMetricKeys": ["val_macro_f1"]}
    common = {"metricSectionId": _KEY, "runsCountToCompare": 100, "deleted": False, "isGenerated": False}
    return [{"uuid": f"{_KEY}-{number}", **chart, **common} for number, chart in enumerate((parallel, curves))]
