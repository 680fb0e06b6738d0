"""The tone of one post, by the registered champion.

python -m src.predict --model clip photo.jpg "what a day"
"""

from pathlib import Path

import click

from src.core.errors import Refusal
from src.core.labels import TONES
from src.models.catalog import MODELS
from src.services.terminal import command, model_option, say


@command(example='python -m src.predict --model clip photo.jpg "what a day"')
@model_option(MODELS)
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("caption")
def main(model: str, image: Path, caption: str) -> None:
    """Print the tone of a post (IMAGE and CAPTION) with the probability of each tone."""
    if not image.is_file():
        raise Refusal(f"there is no file {image}")
    from src.data.images import inspect
    from src.services import registry

    inspect(image)
    answer = registry.predict(registry.load(registry.uri_of(model)), [(image.read_bytes(), caption)])[0]
    chances = ", ".join(f"{tone} {chance:.3f}" for tone, chance in zip(TONES, answer[1:], strict=True))
    say(f"{answer[0]} ({chances})")


if __name__ == "__main__":
    main()
