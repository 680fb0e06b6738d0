"""One training: an adapter and a readout fitted to features, judged on the validation part after every epoch.

A plain loop rather than transformers' Trainer: `benchmarks/loop.py` measures what that saves.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from src.core.errors import Diverged
from src.core.protocols import Reporter
from src.core.records import Prediction
from src.core.settings import FitParams
from src.learning.batches import cut, dealt, shuffled
from src.learning.lora import restore, trainable_state
from src.learning.losses import Loss
from src.learning.metrics import scores
from src.learning.parallel import ALONE, Parallel
from src.learning.probing import micro_batch
from src.learning.scoring import Labelled, logits, mean_loss, predictions
from src.models.base import ToneModel


@dataclass(frozen=True)
class Fit:
    """What came of a training: a row of metrics an epoch, and the best epoch's weights and predictions."""

    history: tuple[Mapping[str, float], ...]
    best_epoch: int
    state: Mapping[str, Tensor]
    predictions: tuple[Prediction, ...]


def fit(
    model: ToneModel,
    train: Labelled,
    val: Labelled,
    settings: FitParams,
    seed: int,
    reporter: Reporter,
    parallel: Parallel = ALONE,
) -> Fit:
    """Train what is trainable in `model`; it ends with the weights of the epoch that `settings.watch` finds the best.

    Several processes call it alike, each with its own `parallel`, and all return the same; whether the training goes on
    is for the main one's reporter to say.

    Raises:
        Diverged: the loss is no longer a number.
        Stopped: the reporter was told to end it at once.
    """
    parallel.prepare(model)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = AdamW(weights, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    schedule = LambdaLR(optimizer, _cosine(settings, len(train.posts)))
    set_checkpointing(model, settings)
    loss = Loss.of(settings, train.labels(range(len(train.posts))))
    micro = micro_batch(model, train, settings, loss, parallel)
    history: list[Mapping[str, float]] = []
    best: Fit | None = None
    for epoch in range(1, settings.epochs + 1):
        train_loss = 0.0
        for batch in _batches(train, settings, seed * 1000 + epoch):
            train_loss += _step(model, optimizer, schedule, train, batch, micro, loss, parallel) / len(train.posts)
            reporter.on_step()
        found, row = _validate(model, val, settings, reporter, parallel)
        history.append({"epoch": epoch, "train_loss": train_loss, **row})
        if best is None or parallel.mains(_is_better(row, best.history[best.best_epoch - 1], settings)):
            best = Fit(tuple(history), epoch, trainable_state(model), tuple(found))
        if not parallel.mains(reporter.on_epoch(epoch, history[-1])) or epoch - best.best_epoch >= settings.patience:
            break
    assert best is not None
    restore(model, best.state)
    return Fit(tuple(history), best.best_epoch, best.state, best.predictions)


def _batches(data: Labelled, settings: FitParams, seed: int) -> list[list[int]]:
    """The posts of each optimiser step: in whatever pieces a step is computed, they are the same."""
    balance = [post.label for post in data.posts] if settings.sampling == "balanced" else None
    return shuffled(data.features.lengths(), settings.batch_size * settings.accumulation, seed, balance)


def _is_better(row: Mapping[str, float], best: Mapping[str, float], settings: FitParams) -> bool:
    if settings.watch == "loss":
        return row["val_loss"] < best["val_loss"]
    return row["val_macro_f1"] > best["val_macro_f1"]


def _step(
    model: ToneModel,
    optimizer: AdamW,
    schedule: LambdaLR,
    data: Labelled,
    batch: list[int],
    micro: int,
    loss: Loss,
    parallel: Parallel,
) -> float:
    """One optimiser step over a batch, `micro` posts at a time; returns the sum of the posts' losses in nats."""
    model.train()
    total = torch.zeros((), device=model.device)
    pieces = cut(batch, min(micro, math.ceil(len(batch) / parallel.num_processes)))
    for piece, counts in dealt(pieces, parallel.rank, parallel.num_processes):
        posts = len(piece) if counts else 0
        mean = loss(model(data.batch(piece, model.device)), data.labels(piece).to(model.device))
        (mean * posts / len(batch)).backward()  # type: ignore[no-untyped-call]
        total += mean.detach() * posts
    found = parallel.sum(total).item()
    _require_number(found, loss.settings)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    parallel.sum_gradients(weights)
    clip_grad_norm_(weights, loss.settings.max_grad_norm)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad(set_to_none=True)
    return found


def _validate(
    model: ToneModel, data: Labelled, settings: FitParams, reporter: Reporter, parallel: Parallel
) -> tuple[list[Prediction], dict[str, float]]:
    logits_NK = logits(model, data, settings.batch_size, reporter.on_step, parallel)
    val_loss = mean_loss(data, logits_NK)
    _require_number(val_loss, settings)
    found = predictions(data, logits_NK)
    headline = {f"val_{name}": value for name, value in scores(found).headline().items()}
    return found, {"val_loss": val_loss, **headline}


def _require_number(value: float, settings: FitParams) -> None:
    if not math.isfinite(value):
        raise Diverged(f"the loss is no longer a number at lr {settings.lr:g}: try a smaller one")


def set_checkpointing(model: ToneModel, settings: FitParams) -> None:
    """Keep activations or, with `settings.checkpointing`, a layer's inputs alone and run it again on the way back."""
    if settings.checkpointing:
        # The non-reentrant form reaches adapters inside a frozen base (transformers issue 42489).
        model.backbone.activation_checkpointing_enable({"use_reentrant": False})
        # It needs no gradient at the embeddings, and the hooks that transformers sets there would outlive the trial.
        model.backbone.disable_input_require_grads()
    else:
        model.backbone.activation_checkpointing_disable()


def _cosine(settings: FitParams, posts: int) -> "Cosine":
    total = settings.epochs * math.ceil(posts / (settings.batch_size * settings.accumulation))
    return Cosine(max(1, round(settings.warmup * total)), total)


@dataclass(frozen=True)
class Cosine:
    """A factor on the learning rate: up in a line over `warmup` steps, then down a half cosine to 0 at `total`."""

    warmup: int
    total: int

    def __call__(self, step: int) -> float:
        """The factor for one step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.total - self.warmup)))
