"""Stage `register`: make the trained adapter a model version, and the champion if it is the best on validation.

python -m src.register --model clip
"""

from src.cli.options import command, model_option
from src.cli.output import say
from src.core.config import load_params
from src.models.catalog import MODELS


@command(example="python -m src.register --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Register the trained adapter with its head. An adapter that is registered already makes no new version."""
    params = load_params()
    from src.pipeline.register import register_model

    say(register_model(params, model).summary())


if __name__ == "__main__":
    main()
