"""Makes a registered version the champion, or takes that back.

python -m src.promote --model clip
python -m src.promote --model clip --version 3
python -m src.promote --model clip --rollback

The first takes the best on validation, the second the one you name, the third the one that was champion before. The
challenger is then the best of the others. No version is ever removed.
"""

import click

from src.cli.options import command, model_option
from src.cli.output import say, table
from src.core.errors import UsageError
from src.models.catalog import MODELS


@command(example="python -m src.promote --model clip --version 3")
@model_option(MODELS)
@click.option("--version", "number", type=click.IntRange(min=1), help="By hand, whatever its validation score.")
@click.option("--rollback", is_flag=True, help="The champion before the present one; again goes back further.")
def main(model: str, number: int | None, rollback: bool) -> None:
    """Make a version of MODEL the champion: the best by validation macro-F1, or the one named."""
    if rollback and number:
        raise UsageError("--rollback goes to the champion before: give it or --version, not both")
    from src.registry import promotion

    change = promotion.rollback(model) if rollback else promotion.promote(model, number)
    _show(model)
    if change is None:
        say(f"The champion of {model} stays as it is")
    else:
        before = f", version {change.before} was" if change.before else ""
        say(f"Version {change.version} of {model} is the champion now ({change.how}){before}")


def _show(model: str) -> None:
    from src.registry import promotion, registry

    labels = {
        found.number: label
        for label in (registry.CHALLENGER, registry.CHAMPION)
        if (found := registry.version_at_alias(model, label))
    }
    rows = [
        (version.number, promotion.score(version), labels.get(version.number, ""), version.tags.get("split_digest", ""))
        for version in registry.versions(model)
    ]
    table(registry.registered_name(model), ["version", "validation macro-F1", "alias", "split"], rows)
    changes = [(change.at, change.version, change.before, change.how) for change in promotion.history(model)]
    table("champions", ["since", "version", "before", "how"], changes)


if __name__ == "__main__":
    main()
