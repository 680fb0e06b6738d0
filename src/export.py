"""A registered version as a folder in the Hub's layout: plain transformers and peft load it, without this repository.

python -m src.export models:/mvsa-clip@champion --out mvsa-clip
python -m src.export models:/mvsa-clip@champion --out mvsa-clip-merged --merge
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from src.cli.options import command
from src.cli.output import say, warn
from src.core.data_outputs import SplitReport
from src.core.errors import UserError
from src.core.files import read_table, write_text
from src.core.records import read_predictions
from src.registry.contract import DIVISION_FILE, TEST_FILE

if TYPE_CHECKING:
    from src.core.records import Prediction
    from src.registry.contract import Contract
    from src.registry.model_card import CardInputs, Measured
    from src.registry.registry import Version

CARD = "README.md"


@command(example="python -m src.export models:/mvsa-clip@champion --out mvsa-clip")
@click.argument("version")
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="A folder, new or empty.")
@click.option("--merge", is_flag=True, help="Work the adapter into the base's weights, in float32.")
def main(version: str, folder: Path, merge: bool) -> None:
    """Write VERSION, an address in the registry, as a folder in the layout of the Hub.

    Its model card shows the code that loads and asks it with plain transformers and peft. That code is run before the
    folder is there, and has to give the golden posts the logits that the contract records.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not empty: name another, or remove it")
    from src.registry import registry

    _, found = registry.version_at(version)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with TemporaryDirectory() as place:
            off, allowed = _export(found, registry.download(found, Path(place)), temporary, merge)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    how = "merged into its base" if merge else "as an adapter"
    say(f"{found.name} version {found.number} is in {folder}, {how}")
    say(f"golden posts: answered by the model card's own code, logits off by {off:.2g} ({allowed:.2g} allowed)")


def _export(version: "Version", downloaded: Path, folder: Path, merge: bool) -> tuple[float, float]:
    """Write the folder and have its card's code answer the golden posts; returns how far logits are off, and may be."""
    from src.registry.export import write_files
    from src.registry.loading import load_version
    from src.registry.model_card import is_mvsa, model_card
    from src.registry.pyfunc import artifacts_in

    artifacts = artifacts_in(downloaded)
    evidence = _evidence(artifacts, version)
    loaded = load_version(artifacts, "cpu")
    snippet = write_files(loaded, artifacts, folder, merge)
    card = model_card(version.name, version.number, loaded.contract, snippet, evidence, merged=merge)
    write_text(folder / CARD, card)
    if is_mvsa(evidence.division):
        warn("the folder holds eight posts of MVSA-Single, by private persons: keep it as private as the data")
    return _verify_export(loaded.contract, folder, merge)


def _evidence(artifacts: Mapping[str, str], version: "Version") -> "CardInputs":
    """What the version's scores rest on, from the files that came with it."""
    from src.registry.model_card import CardInputs

    folder = Path(artifacts.get("contract", ""))
    if not (folder / TEST_FILE).is_file():
        raise UserError(
            "the version came without its test predictions, which a model card needs: train and register anew"
        )
    division, rows = SplitReport.read(folder / DIVISION_FILE), read_table(folder / TEST_FILE)
    group_of, unseen = {row["id"]: row["group"] for row in rows}, {row["id"] for row in rows if row["leak_free"] == "1"}
    found = read_predictions(folder / TEST_FILE)
    apart = [each for each in found if each.id in unseen]
    seed = division.seed
    leak_free = _measured(apart, group_of, seed) if apart else None
    return CardInputs(division, _measured(found, group_of, seed), leak_free, version.tags.get("git_commit", ""))


def _measured(found: "list[Prediction]", group_of: Mapping[str, str], seed: int) -> "Measured":
    from src.evaluation.intervals import intervals, tone_intervals
    from src.evaluation.metrics import scores
    from src.registry.model_card import Measured

    spans = {**intervals(found, group_of, seed), **tone_intervals(found, group_of, seed)}
    return Measured(scores(found), spans, len({group_of[each.id] for each in found}))


def _verify_export(contract: "Contract", folder: Path, merge: bool) -> tuple[float, float]:
    from src.registry.model_card import code_of, dtype_of

    answers = _answers(folder, code_of((folder / CARD).read_text(encoding="utf-8")))
    allowed = contract.tolerance(dtype_of(contract, merged=merge))
    pairs = zip(contract.golden, answers, strict=True)
    off = [abs(logit - given) for post, row in pairs for logit, given in zip(post.logits, row, strict=True)]
    if not all(each <= allowed for each in off):  # nor if one is no number
        raise UserError(
            f"golden logits of the {'merged' if merge else 'exported'} weights are off by {max(off):.2g}, and "
            f"{allowed:.2g} is allowed: nothing is left of the export"
        )
    return max(off), allowed


def _answers(folder: Path, code: str) -> list[list[float]]:
    """The logits that a card's code prints, run where it sees the folder and no repository."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise UserError(f"the model card's code does not run, so nothing is left of the export: {reason}")
    return [[float(logit) for logit in line.split()[1:]] for line in done.stdout.splitlines()]


if __name__ == "__main__":
    main()
