"""A saved view of MLflow's run table that shows only trials, the best first, with columns and charts of their settings.

MLflow stores such views as tags of the experiment and lists them under "Views".
"""

import json
import time
from collections.abc import Sequence
from typing import Any

from src.tracking.markdown import MODEL_TRAINING

_KEY = "trials"
VIEW_TAG = f"mlflow.sharedViewState.{_KEY}"  # private API of MLflow 3.17
_SCORE = "best_val_macro_f1"
_METRICS = (_SCORE, "best_val_accuracy")
# Sizes in pixels. With MLflow's defaults the labels of axes overlap, and columns cut their names.
_CHART_HEIGHT = 420
_COLUMN_WIDTH = 160


def trials_view(settings: Sequence[str]) -> str:
    """Return the view of trials with these settings as columns, as the value of the tag `VIEW_TAG`."""
    metrics = [f"metrics.`{name}`" for name in _METRICS]
    columns = [
        *metrics,
        *(f"params.`{name}`" for name in settings),
        *(f"tags.`{name}`" for name in ("state", "reason")),
    ]
    state = {  # private API of MLflow 3.17
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
    """Return the address of the view within MLflow's pages, as a table or as charts."""
    mode = "&compareRunsMode=CHART" if charts else ""
    query = f"{MODEL_TRAINING}&viewStateShareKey={_KEY}{mode}"  # private API of MLflow 3.17
    return f"#/experiments/{experiment_id}/runs?{query}"


def _section() -> dict[str, Any]:
    shape = {"columns": 1, "cardHeight": _CHART_HEIGHT}
    return {  # private API of MLflow 3.17
        "uuid": _KEY,
        "name": "Trials",
        "display": True,
        "isReordered": False,
        **shape,
    }


def _charts(settings: Sequence[str]) -> list[dict[str, Any]]:
    parallel: dict[str, Any] = {  # private API of MLflow 3.17
        "type": "PARALLEL",
        "selectedParams": list(settings),
        "selectedMetrics": [_SCORE],
        "showAllRuns": True,
    }
    curves: dict[str, Any] = {"type": "LINE", "metricKey": "val_macro_f1", "selectedMetricKeys": ["val_macro_f1"]}
    common = {"metricSectionId": _KEY, "runsCountToCompare": 100, "deleted": False, "isGenerated": False}
    return [{"uuid": f"{_KEY}-{number}", **chart, **common} for number, chart in enumerate((parallel, curves))]
