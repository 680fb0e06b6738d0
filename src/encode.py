"""Stage `encode`: resolves a model's checkpoint and runs all that is frozen once over every labelled post.

python -m src.encode --model clip
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from src.cli.options import command, model_option
from src.cli.output import progress, say
from src.core.config import Params, load_params
from src.core.files import write_json
from src.core.paths import checkpoint_folder, stage_folder
from src.modeling.hub import go_offline_if_hub_unreachable
from src.models.catalog import MODELS, resolve_checkpoint

if TYPE_CHECKING:
    from src.data.images import EncodablePost
    from src.training.workspace import Workspace


@command(example="python -m src.encode --model clip")
@model_option(MODELS)
def main(model: str) -> None:
    """Fetch or make a model's checkpoint, and cache what its frozen part makes of every labelled post.

    The cache outlives this stage: what a post's content and the checkpoint have given before is not computed again.
    """
    params = load_params()
    if params.scale == "full":
        go_offline_if_hub_unreachable()  # before what follows imports the Hub's library
    from src.training.adapter import fresh_adapter
    from src.training.workspace import CHECKPOINT_FILE, Workspace, load_model, posts_by_part, views_of

    parts = posts_by_part()
    captions = [post.caption for post in parts["train"]]
    checkpoint = resolve_checkpoint(model, params.scale, checkpoint_folder(model), captions)
    workspace = Workspace(load_model(model, checkpoint), parts)
    posts = [post for part in parts.values() for post in part]
    # The adapted model's boundary comes first: from what it keeps, the bare model's is reached without a picture.
    settings = params.training_config(model)
    views = [each for row in views_of(parts["train"], settings) for each in row]
    with fresh_adapter(workspace.model, settings, params.seed):
        caches = [_encode(params, workspace, [*posts, *views], "posts and views" if views else "posts")]
    caches.append(_encode(params, workspace, posts))
    found = workspace.model.checkpoint
    write_json(stage_folder("encode", model) / CHECKPOINT_FILE, asdict(found))
    write_json(stage_folder("encode", model) / "encode.json", {"posts": len(posts), "caches": caches})
    say(f"{model}: {found.source} at {found.revision}. {params.notice}")


def _encode(params: Params, workspace: "Workspace", posts: "Sequence[EncodablePost]", what: str = "posts") -> str:
    """Encode what the model, as it is adapted now, keeps frozen; returns the name of the cache."""
    model, store = workspace.model, workspace.store()
    with progress(len(posts), f"{model.spec.name}: {store.folder.name}", what) as bar:
        count = store.ensure(model, posts, params.encode.batch_size, bar.advance)
    rest, megabytes = len(posts) - count, store.num_bytes() / 1e6
    say(
        f"{model.spec.name}: {count:,} {what} encoded to {store.folder} ({megabytes:,.1f} MB), "
        f"{rest:,} known by their content already"
    )
    return store.folder.name


if __name__ == "__main__":
    main()
