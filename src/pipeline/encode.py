"""First work of stage `frozen`: resolve a model's checkpoint, and cache the features of its frozen segments."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from src.cli.output import progress, warn
from src.core.config import Params
from src.core.errors import UserError
from src.core.outputs import AlignedWeights, AlignOutput, EncodeOutput, PretrainedWeights
from src.core.paths import (
    ALIGN_JSON,
    ALIGNED_FILE,
    ENCODE_FILE,
    PARAMS,
    checkpoint_file,
    checkpoint_folder,
    stage_folder,
)
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.data.augmentation import AugmentedPost
from src.data.images import EncodablePost
from src.models.catalog import model_class, resolve_checkpoint
from src.training.adapter import fresh_adapter
from src.training.workspace import Workspace, load_model, posts_by_part, views_of


@dataclass(frozen=True)
class FilledCache:
    """The cache of one boundary, after `encode_model` filled it."""

    folder: Path
    # The size of all files in the folder.
    num_bytes: int
    # Items that this call encoded, and items that the cache had before; `unit` names an item.
    num_encoded: int
    num_cached: int
    unit: str


@dataclass(frozen=True)
class EncodeResult:
    """The workspace of a model, loaded from its checkpoint, and the caches that were filled."""

    workspace: Workspace
    caches: tuple[FilledCache, ...]


def encode_model(params: Params, model: str) -> EncodeResult:
    """Resolve the checkpoint of a model, encode every labelled post, and record both.

    Two caches are filled: for the adapter that params.yaml asks for, and for the bare model.

    Raises:
        UserError: an earlier stage has not run, the checkpoint or an image cannot be read, or the disk is full.
    """
    parts = posts_by_part()
    captions = [post.caption for post in parts["train"]]
    given = params.checkpoint(model)
    checkpoint = resolve_checkpoint(model, params.scale, checkpoint_folder(model), captions, given, params.labels)
    settings = params.training_config(model)
    if params.align_config(model):
        checkpoint = replace(checkpoint, aligned=_aligned_weights(model, checkpoint.revision))
    _warn_of_untrained(model, checkpoint, settings)
    workspace = Workspace(load_model(model, checkpoint, params.labels), parts, params.encode.batch_size)
    posts = [post for part in parts.values() for post in part]
    views = [view for row in views_of(parts["train"], settings) for view in row]
    # The adapted model's boundary comes first. The bare model's boundary lies behind it, so its features are computed
    # from the cached ones, and no image is read twice.
    with fresh_adapter(workspace.model, settings, params.seed):
        unit = "posts and views" if views else "posts"
        adapted = _fill_cache(workspace, posts, views, params.encode.batch_size, unit)
    bare = _fill_cache(workspace, posts, [], params.encode.batch_size, "posts")
    # The loaded model knows the commit that its files came from.
    workspace.model.checkpoint.write(checkpoint_file(model))
    output = EncodeOutput(posts=len(posts), caches=(adapted.folder.name, bare.folder.name))
    output.write(stage_folder("encode", model) / ENCODE_FILE)
    return EncodeResult(workspace, (adapted, bare))


def _aligned_weights(model: str, revision: str) -> AlignedWeights:
    """Return the weights that `align` has trained for a revision of the checkpoint."""
    folder = stage_folder("align", model)
    output = AlignOutput.read(folder / ALIGN_JSON)
    if output.revision != revision:
        raise UserError(
            f"{folder} is of the checkpoint {output.revision}, and {revision} is the present one: "
            f"run `python -m src.align --model {model}`"
        )
    return AlignedWeights(str(folder / ALIGNED_FILE), output.digest, output.segments)


def _warn_of_untrained(model: str, checkpoint: PretrainedWeights, settings: TrainingConfig) -> None:
    """Name the segments of a published checkpoint whose weights are random, and which no training learns."""
    if checkpoint.is_random or checkpoint.given:
        return
    trained = {*settings.unfreeze.split(), *(checkpoint.aligned.segments if checkpoint.aligned else ())}
    untrained = [name for name in model_class(model).spec.untrained_segments if name not in trained]
    if untrained:
        names = " and ".join(untrained)
        warn(
            f"{model}: the checkpoint has random weights in {names}, and no training learns them: set align.{model} or "
            f"training.{model}.unfreeze in {PARAMS}"
        )


def _fill_cache(
    workspace: Workspace, posts: Sequence[Post], views: Sequence[AugmentedPost], batch_size: int, unit: str
) -> FilledCache:
    """Encode the posts and views that the cache of the model's present boundary lacks."""
    model = workspace.model
    store = workspace.store(views)
    both: list[EncodablePost] = [*posts, *views]
    with progress(len(both), f"{model.spec.name}: {store.folder.name}", unit) as bar:
        num_encoded = store.ensure(model, both, batch_size, bar.advance)
    return FilledCache(store.folder, store.num_bytes(), num_encoded, len(both) - num_encoded, unit)
