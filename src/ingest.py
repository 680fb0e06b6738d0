"""Points data.dvc at a folder in MVSA's layout, so that a plain `dvc repro` imports it and runs on it.

data.dvc is an import that is not frozen: `dvc repro` compares the folder with what data/ was made from, and copies it
to data/ where they differ. DVC deletes the old data/ when it does, whatever is in it, so changes made there by hand
are looked for here first.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click

from src.cli.options import command
from src.cli.output import say
from src.core.errors import UserError
from src.core.files import write_text
from src.core.labels import PROTOCOLS, TONES, label_of
from src.core.paths import DATA, DATA_DVC
from src.data import mvsa

DVC_FOLDER = Path(".dvc")


@command(example="python -m src.ingest ~/Downloads/MVSA-Single && dvc repro")
@click.argument("path", type=click.Path(path_type=Path))
def main(path: Path) -> None:
    """Point data.dvc at PATH: a folder with labelResultAll.txt and data/ in it, or the folder that one is in."""
    if not DVC_FOLDER.is_dir():
        raise UserError(f"{DVC_FOLDER}/ is missing: run commands from the repository's root")
    found = mvsa.survey(mvsa.find_root(path))
    _require_usable(found)
    _require_unedited_data()
    changed = point_at(found.root)
    _summarise(found)
    say(f"{DATA_DVC} {'now points' if changed else 'points already'} at {found.root}; next: `dvc repro`")


def point_at(root: Path) -> bool:
    """Make `root` what data.dvc imports; False if it is already.

    What data.dvc knows of the present data/ stays in it, so that changes made there by hand can still be told.
    """
    from dvc.utils.serialize import dumps_yaml  # type: ignore[import-untyped]

    present = _present()
    source = _as_dependency(root)
    if [dep["path"] for dep in present.get("deps", [])] == [source] and not present.get("frozen"):
        return False
    wanted = {"deps": [{"path": source}], "outs": present.get("outs", [{"path": str(DATA)}])}
    write_text(DATA_DVC, dumps_yaml(wanted))
    return True


def _present() -> dict[str, Any]:
    from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml

    if not DATA_DVC.exists():
        return {}
    try:
        content: dict[str, Any] = parse_yaml(DATA_DVC.read_text(encoding="utf-8"), str(DATA_DVC))
    except YAMLFileCorruptedError as error:
        raise UserError(f"{DATA_DVC} is not YAML: take it from git again, or remove it") from error
    return content


def _as_dependency(root: Path) -> str:
    # Relative within the repository, so that a clone elsewhere finds it; outside only this machine can anyway.
    here, there = Path.cwd().resolve(), root.resolve()
    return there.relative_to(here).as_posix() if there.is_relative_to(here) else there.as_posix()


def _require_usable(found: mvsa.DatasetIndex) -> None:
    if found.root.resolve().is_relative_to(DATA.resolve()):
        raise UserError(f"{found.root} is where `dvc repro` puts the posts: give the folder that they come from")
    if not found.pairs:
        reasons = ", ".join(f"{count:,} have {reason}" for reason, count in _reasons(found).most_common())
        raise UserError(
            f"{found.root} has no complete post (label row with a majority, image and caption): "
            f"{reasons or 'it is empty'}"
        )


def _require_unedited_data() -> None:
    if DATA.exists() and _dvc_status().intersection(("modified", "new")):
        raise UserError(
            f"{DATA}/ was changed by hand, and `dvc repro` would delete the changes: move what you want to keep "
            f"elsewhere, remove {DATA}/ and try again"
        )


def _dvc_status() -> set[str]:
    """How data/ differs from what data.dvc says of it."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json", str(DATA_DVC)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"`dvc status {DATA_DVC}` fails: {done.stderr.strip().splitlines()[-1]}")
    changes = json.loads(done.stdout).get(str(DATA_DVC), [])
    return {change["changed outs"][str(DATA)] for change in changes if "changed outs" in change}


def _reasons(found: mvsa.DatasetIndex) -> Counter[str]:
    return Counter(post.reason for post in found.dropped)


def _summarise(found: mvsa.DatasetIndex) -> None:
    say(f"{found.root}: {len(found.pairs) + len(found.dropped):,} posts, {len(found.pairs):,} complete")
    say(f"  annotators a post: {found.num_annotators}; posts without a majority: {found.num_undecided:,}")
    for reason, count in _reasons(found).most_common():
        say(f"  to be left out, {reason}: {count:,}")
    for variant, count in found.variants.items():
        say(f"  read all the same, {variant}: {count:,}")
    for protocol in PROTOCOLS:
        counts = Counter(label_of(protocol, *pair) for pair in found.pairs.values())
        say(f"  {protocol}: {', '.join(f'{counts[tone]:,} {tone}' for tone in TONES)}")


if __name__ == "__main__":
    main()
