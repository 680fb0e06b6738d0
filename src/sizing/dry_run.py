"""What a search would take at the published size, from the model files alone: no weights, no posts."""

from collections import Counter

from src.core.config import Params
from src.core.paths import SPLIT
from src.core.records import read_split
from src.models.catalog import model_class
from src.services.spaces import highest
from src.services.terminal import say, table
from src.sizing.footprint import footprint
from src.sizing.tables import sizes, tables, verdict

# Where nothing says otherwise, a dry run is of the study: its GPU, a V100, and its posts, the agreement of MVSA-Single.
STUDY_MEMORY_GIB = 32.0
STUDY_POSTS = {"train": 1555, "val": 518, "test": 519}


def say_what_it_takes(params: Params, model: str, memory_gib: float | None) -> None:
    """Print what the search's largest trial takes, and whether a GPU of `memory_gib` holds it."""
    kind = model_class(model)
    largest = params.fit_of(model, **highest(params.space_of(model)))
    known = [params.fit_of(model, **settings) for settings in params.tune.known_good.get(model, ())]
    num_posts = Counter(read_split(SPLIT).values()) if SPLIT.is_file() else STUDY_POSTS
    found = footprint(kind, largest, num_posts)
    say(f"{model} as {kind.spec.checkpoint}, base in bfloat16, {found.num_tokens} tokens of text a post")
    say(f"The search's largest trial: rank {largest.rank}, dropout {largest.dropout:g}, objective {largest.objective}")
    for each in [*tables(found), sizes(kind, known)]:
        table(*each)
    say(verdict(found, memory_gib or STUDY_MEMORY_GIB))
