"""Stage `probe`: what a linear classifier makes of a model's frozen features, nothing of the model being trained.

python -m src.probe --model clip
"""

from typing import TYPE_CHECKING

from src.cli.options import command, model_option
from src.cli.output import say, warn
from src.core.config import load_params
from src.core.files import write_json
from src.core.paths import GROUPS, stage_folder
from src.core.records import PARTS, read_groups
from src.models.catalog import MODELS

if TYPE_CHECKING:
    from src.training.baselines import Examples
    from src.training.workspace import Workspace


@command(example="python -m src.probe --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Fit logistic regression on the pooled features of the frozen model, and score the test posts."""
    params, group_of = load_params(), read_groups(GROUPS)
    from src.evaluation.metrics import report, scores
    from src.tracking.run_logging import log_baseline, run_tags
    from src.training.baselines import probe, together, write_out_of_fold
    from src.training.workspace import open_workspace

    workspace = open_workspace(model)
    parts = [_examples(workspace, part, params.encode.batch_size) for part in PARTS]
    fitted = probe(*parts)
    folder, result = stage_folder("probe", model), scores(fitted.test)
    fitted.write(folder)
    omitted = write_out_of_fold(folder, fitted.chosen.classifier, together(parts), group_of, params.seed)
    write_json(folder / "omitted.json", omitted)
    for name, reason in omitted.items():
        warn(f"{model} probe, {name}: {reason}")
    write_json(folder / "metrics.json", result.summary())
    tags = run_tags("probe", workspace.facts(), params.notice)
    log_baseline(f"{model} probe", tags, fitted.chosen.settings, scores(fitted.val), result, report(fitted.test))
    say(
        f"{model}: linear probe, C {fitted.chosen.settings['C']}, {len(fitted.test):,} test posts: "
        f"accuracy {result.accuracy:.4f}, macro-F1 {result.macro_f1:.4f}. {params.notice}"
    )


def _examples(workspace: "Workspace", part: str, batch_size: int) -> "Examples":
    """A part with the features of the bare model: with nothing to train on it, all of it is frozen and cached."""
    from src.training.baselines import Examples
    from src.training.dataset import pooled

    data = workspace.data(part, batch_size)
    return Examples(data.posts, pooled(data))


if __name__ == "__main__":
    main()
