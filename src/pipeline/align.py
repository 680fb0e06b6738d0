"""Work of stage `align`: train the segments that a model's checkpoint has no trained weights for.

The two halves of a checkpoint may never have met: nobody has trained a connector between them. LLaVA trains its
connector first, alone, with both halves frozen (H. Liu et al., Visual Instruction Tuning, NeurIPS 2023, section 4.2).
This stage does the same, with the labels of the train part as the target. The connector is then frozen in the search,
so its output is cached.
"""

from dataclasses import asdict

from src.cli.output import progress
from src.core.config import Params
from src.core.files import file_digest, write_table
from src.core.locks import try_lock
from src.core.outputs import AlignOutput
from src.core.paths import ALIGN_JSON, ALIGNED_FILE, CHECKPOINTS, HISTORY_FILE, KEPT, UNFINISHED, stage_folder
from src.core.provenance import training_key
from src.core.training_config import TrainingConfig
from src.models.catalog import resolve_checkpoint
from src.pipeline.training_run import open_training_run, show_finished_epochs
from src.tracking.epoch_logger import EpochLogger, log_missing_epochs
from src.tracking.run_logging import log_history, open_tracker, run_tags
from src.training.checkpoint import TrainingCheckpoint
from src.training.train_and_test import trained_adapter
from src.training.trainer import TrainingContext, TrainingResult
from src.training.workspace import Workspace, load_model, posts_by_part


def align_model(params: Params, model: str, settings: TrainingConfig) -> AlignOutput:
    """Train the segments that `settings.unfreeze` names, and write the outputs of the stage.

    A killed training continues after its last epoch.

    Raises:
        UserError: an earlier stage has not run, the checkpoint cannot be read, or the loss diverges.
    """
    parts = posts_by_part()
    captions = [post.caption for post in parts["train"]]
    with try_lock(KEPT / f"align-{model}.lock", f"align for {model}"):
        given = params.checkpoint(model)
        weights = resolve_checkpoint(model, params.scale, CHECKPOINTS / model, captions, given, params.labels)
        workspace = Workspace(load_model(model, weights, params.labels), parts, params.encode.batch_size)
        checkpoint = _training_checkpoint(workspace, settings, params.seed)
        output = _train(workspace, settings, checkpoint, params)
        # Deleted last: until the outputs are complete, the same command must find the state.
        checkpoint.delete()
    return output


def _training_checkpoint(workspace: Workspace, settings: TrainingConfig, seed: int) -> TrainingCheckpoint:
    key = training_key(settings, workspace.facts(), seed)
    return TrainingCheckpoint(UNFINISHED / f"align-{workspace.model.spec.name}.safetensors", key)


def _train(
    workspace: Workspace, settings: TrainingConfig, checkpoint: TrainingCheckpoint, params: Params
) -> AlignOutput:
    model = workspace.model.spec.name
    tags = run_tags("align", workspace.facts(), params.notice)
    tracker = open_tracker(model)
    with (
        open_training_run(tracker, "align", checkpoint, settings, tags, asdict(settings)) as run,
        progress(settings.epochs, f"{model}: aligning", "epochs") as bar,
    ):
        logger = EpochLogger(run, bar)
        show_finished_epochs(model, checkpoint, logger)
        context = TrainingContext(params.seed, logger, checkpoint=checkpoint)
        with trained_adapter(workspace, settings, context) as (adapter, result):
            adapter.save_parts(stage_folder("align", model) / ALIGNED_FILE)
        output = _write(workspace, settings, result)
        log_missing_epochs(run, result.history)
        log_history(run, result.history, f"{model}, aligning")
        run.metrics({f"best_val_{name}": value for name, value in output.validation.items()})
    return output


def _write(workspace: Workspace, settings: TrainingConfig, result: TrainingResult) -> AlignOutput:
    folder = stage_folder("align", workspace.model.spec.name)
    write_table(folder / HISTORY_FILE, result.history)
    output = AlignOutput(
        segments=tuple(settings.unfreeze.split()),
        revision=workspace.model.checkpoint.revision,
        digest=file_digest(folder / ALIGNED_FILE),
        best_epoch=result.best_epoch,
        validation=result.scores().summary(),
    )
    output.write(folder / ALIGN_JSON)
    return output
