"""TinyLLaVA (bczhou/tiny-llava-v1-hf), in transformers' LLaVA format.

The checkpoints of TinyLLaVA Factory are different: they have their own model class.
"""

from typing import Any, ClassVar

from src.modeling import tiny
from src.modeling.llava_format import LAYERS, LlavaFormat
from src.modeling.spec import Spec, TokenCounts


class Model(LlavaFormat):
    """TinyLLaVA v1: CLIP ViT-L/14-336, a connector, TinyLlama-1.1B (grouped-query attention)."""

    # Revision: the Hub's file list at this commit has the configuration, safetensors and processors.
    # Prompt: the form of the checkpoint's model card at the same commit, with ASSISTANT on its own line.
    spec: ClassVar[Spec] = Spec(
        name="tinyllava",
        checkpoint="bczhou/tiny-llava-v1-hf",
        revision="fedff3e800a359a8795b962343a6449de4d39f6d",
        layers=LAYERS,
        target_projections="qv",
        prompt=(
            "USER: <image>\nThis picture was posted with the caption: {caption}\n"
            "Is the tone of the post {labels}?\nASSISTANT:"
        ),
        tokens=TokenCounts(opening=5, prompt=30, caption=58),
    )
    # TinyLlama-1.1B: P. Zhang et al., arXiv 2401.02385, table 1.
    published_language: ClassVar[dict[str, Any]] = {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
    }
    tiny_language: ClassVar[dict[str, Any]] = {
        "hidden_size": tiny.WIDTH,
        "intermediate_size": 2 * tiny.WIDTH,
        "num_hidden_layers": tiny.LAYERS - 1,
        "num_attention_heads": tiny.HEADS,
        "num_key_value_heads": tiny.HEADS // 2,
    }
