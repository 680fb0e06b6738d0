"""Stage `register_ensemble`: make the ensemble a model version that names its members' versions.

python -m src.register_ensemble
"""

from src.cli.options import command
from src.cli.output import say
from src.core.config import load_params


@command(example="python -m src.register_ensemble")
def main() -> None:
    """Register the ensemble as mvsa-ensemble, and make it the champion if it is better on validation.

    Its models must be registered. An ensemble that is registered already gets no other version.
    """
    params = load_params()
    from src.pipeline.register_ensemble import register_ensemble

    say(register_ensemble(params).summary())


if __name__ == "__main__":
    main()
