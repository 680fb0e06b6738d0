"""Make a registered version the champion, or go back to the champion before.

python -m src.promote --model clip
python -m src.promote --model clip --version 3
python -m src.promote --model clip --rollback

The first command takes the best version on validation, the second the version with that number, and the third the
previous champion. The best other version becomes the challenger. No version is removed.
"""

import click

from src.cli.options import command, model_option
from src.cli.output import say, table
from src.core.errors import UsageError
from src.models.catalog import MODELS
from src.registry.ensemble_contract import ENSEMBLE


@command(example="python -m src.promote --model clip --version 3")
@model_option((*MODELS, ENSEMBLE))
@click.option("--version", "number", type=click.IntRange(min=1), help="Promote this version, whatever its score.")
@click.option("--rollback", is_flag=True, help="Go back to the previous champion; a second rollback goes further back.")
def main(model: str, number: int | None, rollback: bool) -> None:
    """Make a version of MODEL the champion: the best by validation macro-F1, or the version with the given number."""
    if rollback and number:
        raise UsageError("--rollback goes to the previous champion: give it or --version, not both")
    from src.registry import promotion

    change = promotion.rollback(model) if rollback else promotion.promote(model, number)
    _print_versions(model)
    if change is None:
        say(f"The champion of {model} stays as it is")
    else:
        before = f", version {change.before} was" if change.before else ""
        say(f"Version {change.version} of {model} is the champion now ({change.how}){before}")


def _print_versions(model: str) -> None:
    from src.registry import promotion, registry

    alias_of = {}
    for alias in (registry.CHALLENGER, registry.CHAMPION):
        aliased = registry.version_at_alias(model, alias)
        if aliased:
            alias_of[aliased.number] = alias
    rows = [
        (
            version.number,
            promotion.score(version),
            alias_of.get(version.number, ""),
            version.tags.get("split_digest", ""),
        )
        for version in registry.versions(model)
    ]
    table(registry.registered_name(model), ["version", "validation macro-F1", "alias", "split"], rows)
    changes = [(change.at, change.version, change.before, change.how) for change in promotion.history(model)]
    table("champions", ["since", "version", "before", "how"], changes)


if __name__ == "__main__":
    main()
