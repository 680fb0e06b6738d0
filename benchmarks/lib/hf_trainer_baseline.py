"""The baseline of `benchmarks.search`: a search that a competent user writes with transformers and peft alone.

It is `Trainer.hyperparameter_search(backend="optuna")` with a `model_init` that loads the checkpoint for each trial and
attaches peft's adapter. It avoids costs that are no part of the method: it uses SDPA, tokenises captions once and keeps
the best weights in memory. Evaluation stores only logits_NK. There is no key-value cache, checkpoint or log.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers.trainer import Trainer
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from transformers.training_args import TrainingArguments

from benchmarks.lib import hf_trainer_models
from benchmarks.lib.hf_trainer_inputs import Collator, PostDataset, Replay
from benchmarks.lib.task import Plan, Task, Trained, macro_f1
from benchmarks.lib.timing import timed
from src.core.training_config import TrainingConfig
from src.training.trainer import Cosine

if TYPE_CHECKING:
    import optuna

LOADER_WORKERS = (0, 1, 2, 4, 8)
Choose = Callable[["optuna.Trial"], TrainingConfig]


@dataclass(frozen=True)
class TrainerBaseline:
    """The Trainer with its inputs."""

    task: Task
    plan: Plan
    # Batches in the project's order ("same") or in the Trainer's own ("own").
    order: str
    # The positions with logits over the vocabulary: "all" or "last".
    logits: str
    loader_workers: int
    dtype: torch.dtype
    facts: hf_trainer_models.Facts
    parts: Mapping[str, PostDataset]
    collate: Collator
    # The positions on which adapters act. With "text", each step runs the prefix without them and without gradients.
    positions: Literal["all", "text"] = "all"

    @classmethod
    def of(
        cls,
        task: Task,
        plan: Plan,
        order: str,
        logits: str,
        loader_workers: int = 0,
        *,
        decodes_at_fraction: bool = False,
    ) -> "TrainerBaseline":
        """Build the baseline for a task, with the project's tokens.

        With `decodes_at_fraction` it decodes large images as the project does, so that all pixels are equal.
        """
        model = task.sized.load()
        at_least = model.image_resizer().min_decoded_side if decodes_at_fraction else None
        parts = {name: PostDataset(model, posts, at_least) for name, posts in vars(task.posts).items()}
        facts = hf_trainer_models.Facts.of(model)
        return cls(task, plan, order, logits, loader_workers, model.backbone.dtype, facts, parts, Collator(model))

    def run_trials(self, trials: Sequence[TrainingConfig]) -> list[Trained]:
        """Run one trial per settings, each to its last epoch. Optuna's default would prune by the median."""
        from optuna.pruners import NopPruner

        return self.search(lambda trial: trials[trial.number], trials[0], len(trials), pruner=NopPruner())

    def search(self, choose: Choose, first: TrainingConfig, num_trials: int, **study: Any) -> list[Trained]:
        """Run a search. `choose` draws the settings of a trial; `study` goes to Optuna's `create_study`."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with TemporaryDirectory() as folder:
            trainer = _Trainer(self, choose, first, folder)
            trainer.hyperparameter_search(
                hp_space=lambda trial: {"learning_rate": choose(trial).lr},
                compute_objective=lambda _: trainer.trial.macro_f1,
                n_trials=num_trials,
                direction="maximize",
                backend="optuna",
                **study,
            )
            return [trial.result() for trial in trainer.trials]

    def build(self, settings: TrainingConfig) -> nn.Module:
        """Return a new model for a trial."""
        settings = replace(settings, adapter_positions=self.positions)
        return hf_trainer_models.build(
            self.task.sized, self.facts, settings, self.plan.adapted, self.logits, self.task.seed
        )

    def score_on_test(self, trained: Trained) -> float:
        """Return the test macro-F1 of a trial's best epoch."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = self.build(trained.settings).to(device).eval()
        unknown = model.load_state_dict(trained.state, strict=False).unexpected_keys
        assert trained.state and not unknown, unknown
        loader = DataLoader(self.parts["test"], trained.settings.batch_size, collate_fn=self.collate)
        with torch.no_grad():
            return macro_f1(self.task.posts.test, torch.cat([_logits(model, batch, device) for batch in loader]))


def quickest_workers(baseline: TrainerBaseline, settings: TrainingConfig) -> int:
    """Return the number of dataloader workers that trains a few batches fastest on this machine."""
    task = replace(baseline.task, posts=baseline.task.posts.few(4, settings.batch_size))
    few = TrainerBaseline.of(task, baseline.plan, "own", baseline.logits)
    once = replace(settings, epochs=1)

    def seconds(count: int) -> float:
        return timed(lambda: replace(few, loader_workers=count).run_trials([once]))[1].wall_s

    return min((count for count in LOADER_WORKERS if count <= (os.cpu_count() or 1)), key=seconds)


@dataclass
class _RunningTrial:
    settings: TrainingConfig
    rows: list[dict[str, float]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    complete: bool = False

    @property
    def macro_f1(self) -> float:
        return max(row["val_macro_f1"] for row in self.rows)

    def result(self) -> Trained:
        return Trained(self.settings, tuple(self.rows), self.state, self.complete)


class _Trainer(Trainer):  # type: ignore[misc] # transformers has no types
    """The Trainer with the project's loss, optimiser and schedule, so that both sides do the same arithmetic."""

    def __init__(self, baseline: TrainerBaseline, choose: Choose, first: TrainingConfig, folder: str) -> None:
        self.baseline = baseline
        self.trials: list[_RunningTrial] = []
        self._choose = choose
        self._first = first
        super().__init__(
            model_init=self._init_model,
            args=_arguments(first, baseline, folder),
            train_dataset=baseline.parts["train"],
            eval_dataset=baseline.parts["val"],
            data_collator=baseline.collate,
            compute_metrics=self._metrics,
            callbacks=[_KeepBest(self)],
        )
        self.remove_callback(PrinterCallback)

    @property
    def trial(self) -> _RunningTrial:
        return self.trials[-1]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        output = super().train(*args, **kwargs)
        self.trial.complete = True  # a pruned trial raises
        return output

    def _init_model(self, trial: "optuna.Trial | None") -> nn.Module:
        settings = self._first
        if trial is not None:  # the Trainer builds one model before the first trial
            settings = self._choose(trial)
            self.trials.append(_RunningTrial(settings))
        return self.baseline.build(settings)

    def get_train_dataloader(self) -> DataLoader[Any]:
        if self.baseline.order == "own":
            loader: DataLoader[Any] = super().get_train_dataloader()
            return loader
        sampler = Replay(
            self.baseline.plan.lengths,
            self.args.train_batch_size,
            self.baseline.task.seed,
            epoch=lambda: len(self.trial.rows) + 1,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(
            DataLoader(
                self.train_dataset,
                batch_sampler=sampler,
                collate_fn=self.data_collator,
                num_workers=self.args.dataloader_num_workers,
                pin_memory=self.args.dataloader_pin_memory,
            )
        )
        return prepared

    def create_optimizer(self, model: Any = None) -> AdamW:
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        settings = self.trial.settings
        self.optimizer = AdamW(
            weights, lr=self.args.learning_rate, eps=settings.adam_eps, weight_decay=settings.weight_decay
        )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        warmup = max(1, round(self.trial.settings.warmup_ratio * num_training_steps))
        self.lr_scheduler = LambdaLR(self.optimizer, Cosine(warmup, num_training_steps))
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels_B = inputs.pop("labels")
        outputs = model(**inputs)
        smoothing = self.trial.settings.label_smoothing if model.training else 0.0
        loss = cross_entropy(outputs["logits"], labels_B, label_smoothing=smoothing)
        if model.training:
            # The Trainer averages over batches, of which the last may be smaller. The project averages over posts.
            self.trial.loss_sum = self.trial.loss_sum.to(loss.device) + loss.detach() * len(labels_B)
        return (loss, outputs) if return_outputs else loss

    def _metrics(self, evaluated: Any) -> dict[str, float]:
        logits_NK = torch.tensor(evaluated.predictions)
        labels_N = torch.tensor(evaluated.label_ids)
        score = macro_f1(self.baseline.task.posts.val, logits_NK)
        return {"mean_loss": float(cross_entropy(logits_NK, labels_N)), "macro_f1": score}


class _KeepBest(TrainerCallback):  # type: ignore[misc] # transformers has no types
    """A callback that records epochs and keeps the best weights in memory. `load_best_model_at_end` uses the disk."""

    def __init__(self, trainer: _Trainer) -> None:
        self.trainer = trainer

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        trial = self.trainer.trial
        best = max((row["val_macro_f1"] for row in trial.rows), default=-1.0)
        train_loss = trial.loss_sum.item() / len(self.trainer.train_dataset)
        trial.loss_sum = torch.zeros(())
        row = {
            "train_loss": train_loss,
            "val_loss": metrics["eval_mean_loss"],
            "val_macro_f1": metrics["eval_macro_f1"],
        }
        trial.rows.append({"epoch": len(trial.rows) + 1, **row})
        if row["val_macro_f1"] > best:
            trial.state = _trainable_state(self.trainer.model)


def _arguments(settings: TrainingConfig, baseline: TrainerBaseline, folder: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        num_train_epochs=settings.epochs,
        max_grad_norm=settings.max_grad_norm,
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=baseline.loader_workers,
        # Not persistent: each trial's loader dies in a reference cycle, and its workers would take 5 s to time out.
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        seed=baseline.task.seed,
    )


def _trainable_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().cpu().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def _logits(model: nn.Module, batch: dict[str, Tensor], device: torch.device) -> Tensor:
    logits_BK: Tensor = model(**{name: value.to(device) for name, value in batch.items() if name != "labels"})["logits"]
    return logits_BK.cpu()
