"""MLflow's runs of the searches in the current folder."""

from itertools import count
from pathlib import Path
from typing import Any

_looks = count()


def runs(model: str = "clip") -> list[Any]:
    """Return all runs of a model's experiment."""
    from mlflow import MlflowClient

    # MLflow caches a store by its address while the process lives, although the file may be another one by now.
    place = f"{Path.cwd()}{'/.' * next(_looks)}/mlruns/mlflow.db"
    client = MlflowClient(f"sqlite:///{place}")
    experiment = client.get_experiment_by_name(f"mvsa-{model}")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def trial_runs() -> dict[int, Any]:
    """Return the trials' runs by number. Each trial must have one run."""
    of_trials = [run for run in runs() if run.data.tags["stage"] == "trial"]
    assert len({run.data.tags["trial"] for run in of_trials}) == len(of_trials)
    return {int(run.data.tags["trial"]): run for run in of_trials}
