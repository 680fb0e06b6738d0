"""Train one adapter in a workspace, as every stage that trains does: attach, fit, predict and score."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from src.core.records import Prediction
from src.core.training_config import TrainingConfig
from src.evaluation.metrics import scores
from src.training.adapter import Adapter, fresh_adapter
from src.training.callbacks import noop
from src.training.inference import predict
from src.training.memory import keep_freed_memory
from src.training.trainer import TrainingContext, TrainingResult, fit
from src.training.workspace import Workspace


@dataclass(frozen=True)
class TestedTraining:
    """A training and the test predictions of its best epoch."""

    __test__ = False  # pytest would collect the class by its name

    training: TrainingResult
    test: tuple[Prediction, ...]

    def scores(self) -> dict[str, float]:
        """Return accuracy, macro-F1 and weighted F1 of both parts, under names such as val_macro_f1."""
        parts = {"val": self.training.scores(), "test": scores(self.test)}
        return {
            f"{part}_{name}": value for part, of_part in parts.items() for name, value in of_part.headline().items()
        }


@contextmanager
def trained_adapter(
    workspace: Workspace,
    settings: TrainingConfig,
    context: TrainingContext,
    advance: Callable[[int], None] = noop,
) -> Iterator[tuple[Adapter, TrainingResult]]:
    """Attach a fresh adapter and train it; yield it with the weights of its best epoch, and detach it at the end.

    On the CPU, the process keeps the memory that it frees from then on (`keep_freed_memory`).

    Args:
        workspace: its train and val parts are used; posts that the cache lacks are encoded first.
        settings: of the training.
        context: its seed also initialises the adapter.
        advance: called with the number of posts after every batch that is encoded.

    Raises:
        DivergenceError: a loss is NaN or infinite.
        StopRequested: the callback or `advance` ends the training.
    """
    with fresh_adapter(workspace.model, settings, context.seed) as adapter:
        yield adapter, _fit(workspace, settings, context, advance)


def train_and_test(
    workspace: Workspace,
    settings: TrainingConfig,
    context: TrainingContext,
    batch_size: int,
    adapter_folder: Path | None = None,
) -> TestedTraining:
    """Train an adapter, and predict the test part with its best epoch, `batch_size` posts at a time.

    The test part is predicted once, after training, and decides nothing. The adapter is detached at the end, and saved
    before if there is a folder for it.

    Raises:
        DivergenceError: a loss is NaN or infinite.
        StopRequested: the callback ends the training.
    """
    with fresh_adapter(workspace.model, settings, context.seed) as adapter:
        # Encoded before training, so that an unreadable image costs no training.
        test = workspace.data("test")
        training = _fit(workspace, settings, context)
        if adapter_folder:
            adapter.save(adapter_folder)
        return TestedTraining(training, tuple(predict(workspace.model, test, batch_size)))


def _fit(
    workspace: Workspace, settings: TrainingConfig, context: TrainingContext, advance: Callable[[int], None] = noop
) -> TrainingResult:
    # The adapter decides where the frozen part ends, so features are read after it is attached.
    train = workspace.training(settings, advance=advance)
    val = workspace.data("val", advance=advance)
    if workspace.model.image_head is not None:
        workspace.image_logits(settings, advance).write_to(workspace.model.image_head)
    keep_freed_memory(workspace.model.device)
    return fit(workspace.model, train, val, settings, context)
