"""What MLflow has of the searches in the current folder."""

from itertools import count
from pathlib import Path
from typing import Any

_looks = count()


def runs(model: str = "clip") -> list[Any]:
    """All runs of a model's experiment."""
    from mlflow import MlflowClient

    # MLflow keeps a store by its address for as long as the process lives, also when its file is another by now.
    place = f"{Path.cwd()}{'/.' * next(_looks)}/mlruns/mlflow.db"
    client = MlflowClient(f"sqlite:///{place}")
    (experiment,) = [each for each in client.search_experiments() if each.name == f"mvsa-{model}"]
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def trial_runs() -> dict[int, Any]:
    """The trials' runs by number; each trial has one."""
    found = [run for run in runs() if run.data.tags["stage"] == "trial"]
    assert len({run.data.tags["trial"] for run in found}) == len(found)
    return {int(run.data.tags["trial"]): run for run in found}
