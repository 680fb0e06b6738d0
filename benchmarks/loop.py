"""One adapter trained by the project's loop and by transformers' Trainer, on the same features.

python -m benchmarks.loop

Both read the same cached features and train the same adapter of tiny TinyLLaVA, with the same batch size and epochs.
The Trainer evaluates after each epoch, without checkpoints and logs. The loops alternate. The command prints their
medians and the ratio.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers.trainer import Trainer
from transformers.training_args import TrainingArguments

from src.core.labels import TONE_LABELS, TONES
from src.core.training_config import TrainingConfig
from src.data import mvsa
from src.data.reading import read_folder
from src.data.split import stratified
from src.modeling.base import Features, ToneModel
from src.models.catalog import resolve_checkpoint
from src.training.adapter import fresh_adapter
from src.training.batching import collate
from src.training.cache import FeatureStore
from src.training.dataset import LabelledFeatures
from src.training.memory import keep_freed_memory
from src.training.trainer import TrainingContext, fit
from src.training.workspace import load_model

ROUNDS = 5
SETTINGS = TrainingConfig(readout="head", rank=8, alpha=16, dropout=0.0, lr=1e-3, epochs=4, patience=4)


class _ForTrainer(torch.nn.Module):
    """The project's model with the Trainer's interface: features and labels in, loss and logits out."""

    def __init__(self, model: ToneModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, labels: torch.Tensor, **features: torch.Tensor) -> dict[str, torch.Tensor]:
        logits_BK = self.model(features)
        return {"loss": torch.nn.functional.cross_entropy(logits_BK, labels), "logits": logits_BK}


def main() -> None:
    """Print the medians of both loops and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        model, train, val = _prepare(Path(folder))
        sides: dict[str, Callable[[], None]] = {
            "project": lambda: _project(model, train, val),
            "Trainer": lambda: _trainer(model, train, val, folder),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(ROUNDS + 1):
            for name, side in sides.items():
                begun = time.perf_counter()
                side()
                seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:8} {median:6.2f} s a training of {SETTINGS.epochs} epochs, {len(train.posts)} posts")
    print(f"ratio    {medians['Trainer'] / medians['project']:6.2f}")


def _prepare(folder: Path) -> tuple[ToneModel, LabelledFeatures, LabelledFeatures]:
    dataset = read_folder(mvsa.survey(Path("sample")), "agreement", 1_000_000, lambda: None, hashes=False)
    part_of = stratified(dataset.posts, 0.2, 0.2, seed=7)
    checkpoint = resolve_checkpoint(
        "tinyllava", "tiny", folder / "checkpoint", [post.caption for post in dataset.posts]
    )
    model = load_model("tinyllava", checkpoint, TONE_LABELS)
    with fresh_adapter(model, SETTINGS, seed=7):
        store = FeatureStore.of(folder / "cache", model)
        store.ensure(model, dataset.posts, 32, lambda _: None)
    parts = [[post for post in dataset.posts if part_of.get(post.id) == part] for part in ("train", "val")]
    train, val = (LabelledFeatures(posts, store.table(posts), TONES) for posts in parts)
    return model, train, val


def _project(model: ToneModel, train: LabelledFeatures, val: LabelledFeatures) -> None:
    with fresh_adapter(model, SETTINGS, seed=7):
        keep_freed_memory(model.device)
        fit(model, train, val, SETTINGS, TrainingContext(seed=7))


def _trainer(model: ToneModel, train: LabelledFeatures, val: LabelledFeatures, folder: str) -> None:
    def batch(indexed: list[tuple[LabelledFeatures, int]]) -> Features:
        rows = collate([data.features[index] for data, index in indexed])
        return {**rows, "labels": torch.cat([data.labels([index]) for data, index in indexed])}

    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=SETTINGS.batch_size,
        per_device_eval_batch_size=SETTINGS.batch_size,
        learning_rate=SETTINGS.lr,
        num_train_epochs=SETTINGS.epochs,
        lr_scheduler_type="cosine",
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=not torch.cuda.is_available(),
    )
    with fresh_adapter(model, SETTINGS, seed=7):
        Trainer(
            model=_ForTrainer(model),
            args=arguments,
            train_dataset=[(train, index) for index in range(len(train.posts))],
            eval_dataset=[(val, index) for index in range(len(val.posts))],
            data_collator=batch,
        ).train()


if __name__ == "__main__":
    main()
