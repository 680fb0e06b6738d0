"""LLaVA-1.5-7B (llava-hf/llava-1.5-7b-hf), in transformers' LLaVA format."""

from typing import Any, ClassVar

from src.modeling import tiny
from src.modeling.llava_format import LAYERS, LlavaFormat
from src.modeling.spec import Spec, TokenCounts


class Model(LlavaFormat):
    """LLaVA-1.5-7B: CLIP ViT-L/14-336, a connector, and Vicuna-7B."""

    # Revision: pinned in chenqaq123/HalluAttn_C, docs/nolan_baseline_feasibility.md.
    # Prompt: the form of transformers' own tests (tests/models/llava/test_modeling_llava.py).
    spec: ClassVar[Spec] = Spec(
        name="llava",
        checkpoint="llava-hf/llava-1.5-7b-hf",
        revision="b234b804b114d9e37bb655e11cbbb5f5e971b7a9",
        layers=LAYERS,
        target_projections="qkvo",
        prompt=(
            "USER: <image>\nThis picture was posted with the caption: {caption}\n"
            "Is the tone of the post {labels}? Answer with one word. ASSISTANT:"
        ),
        tokens=TokenCounts(opening=5, prompt=35, caption=58),
    )
    # Vicuna-7B v1.5 is Llama 2's 7B: H. Touvron et al., Llama 2, arXiv 2307.09288.
    published_language: ClassVar[dict[str, Any]] = {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
    }
    tiny_language: ClassVar[dict[str, Any]] = {
        "hidden_size": tiny.WIDTH,
        "intermediate_size": 2 * tiny.WIDTH,
        "num_hidden_layers": tiny.LAYERS,
        "num_attention_heads": tiny.HEADS,
        "num_key_value_heads": tiny.HEADS,
    }
