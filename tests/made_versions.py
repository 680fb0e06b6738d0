"""Versions with adapters of random weights, made without a registry."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.records import Post, content_digest
from src.core.training_config import TrainingConfig
from src.data.images import placeholder
from src.registry.contract import Contract, GoldenPost
from src.registry.contract_file import write_contract

if TYPE_CHECKING:
    from src.modeling.base import ToneModel
    from src.registry.loading import LoadedVersion


def without_image(post: Post, folder: Path) -> Post:
    """Return the post with the image that stands for a missing one."""
    image = folder / "placeholder.png"
    image.write_bytes(placeholder())
    return replace(post, id="placeholder", image=str(image), digest=content_digest(placeholder(), post.caption))


def without_caption(post: Post) -> Post:
    """Return the post without its caption."""
    return replace(post, id="mute", caption="", digest=content_digest(Path(post.image).read_bytes(), ""))


def version_of(
    place: Path, model: "ToneModel", settings: TrainingConfig, registered: Contract, posts: list[Post]
) -> "tuple[LoadedVersion, dict[str, str]]":
    """Return a version of a model, with an adapter that is no longer what it began with, and the paths of its files.

    Its contract is that of a registered version but for the model, the settings and the golden posts.
    """
    import torch

    from src.registry.loading import LoadedVersion, compute_logits
    from src.training.adapter import attach_adapter

    base = model.checkpoint.source
    adapter = attach_adapter(model, settings, seed=1)
    with torch.no_grad():
        heads = [weight for head in adapter.heads().values() for weight in head.parameters()]
        trained = [weight for weight in model.backbone.parameters() if weight.requires_grad]
        for weight in [*heads, *trained]:
            weight.add_(0.05 * torch.randn_like(weight))
    model.eval()
    adapter.save(place / "adapter")
    rows = [(Path(post.image).read_bytes(), post.caption) for post in posts]
    golden = [
        GoldenPost(post.id, post.digest, f"{post.id}.jpg", post.caption, tuple(logits))
        for post, logits in zip(posts, compute_logits(model, rows).tolist(), strict=True)
    ]
    contract = replace(
        registered,
        model=model.spec.name,
        prompt=model.prompt,
        checkpoint=model.checkpoint,
        settings=settings,
        golden=tuple(golden),
    )
    images = {f"{post.id}.jpg": row[0] for post, row in zip(posts, rows, strict=True)}
    write_contract(place / "contract", contract, images)
    artifacts = {"contract": str(place / "contract"), "adapter": str(place / "adapter"), "base": base}
    return LoadedVersion(adapter, contract, 0.0, 0.0, []), artifacts
