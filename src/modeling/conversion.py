"""Conversion of pretrained weights to transformers' modules: a Llama in GGUF, a DINOv2 in ONNX.

The formats: github.com/ggml-org/ggml, docs/gguf.md; github.com/onnx/onnx, docs/IR.md.
"""

from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from src.core.errors import UserError

# Names of DINOv2's attention: in the checkpoints of facebook/dinov2-*, and in transformers 5.23.
_ATTENTION = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def require_readers() -> None:
    """Check that the packages are installed that read GGUF and ONNX.

    Raises:
        UserError: one is missing.
    """
    missing = [name for name in ("gguf", "onnx") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"pretrained weights cannot be read without {' and '.join(missing)}: pip install -r requirements.lock, or "
            '".[smol]"'
        )


def read_llama(file: Path) -> dict[str, Tensor]:
    """Return the weights of a Llama in GGUF by their names in `LlamaModel`, in float32. The head is not among them."""
    # transformers draws a bar of its own there, in logs too.
    with redirect_stderr(StringIO()):
        model = LlamaForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    weights: dict[str, Tensor] = model.model.state_dict()
    return weights


def read_tokenizer(file: Path) -> Any:
    """Return the tokenizer in a GGUF file.

    transformers leaves out a rule of SmolLM's: every digit is a token. llama.cpp has it under the file's key
    `tokenizer.ggml.pre: smollm` (src/llama-vocab.cpp).
    """
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def read_dinov2(file: Path, part: str, class_position: str, patch_positions: str) -> dict[str, Tensor]:
    """Return the weights of a DINOv2 in ONNX by their names in `Dinov2Model`.

    torch's export keeps the names of biases, norms and scales. It has no names for the matrices of products: there the
    product's node is named, and its constant input is the transposed weight. Constants of the positions have numbers.

    Args:
        file: the ONNX file.
        part: the name of the DINOv2 in the exported model.
        class_position: the constant with the class token's position, [1, 1, D].
        patch_positions: the constant with the patches' positions, [1, P, D].
    """
    import onnx

    graph = onnx.load(str(file)).graph
    constants = {item.name: torch.tensor(onnx.numpy_helper.to_array(item)) for item in graph.initializer}
    weights = {name.removeprefix(f"{part}."): value for name, value in constants.items() if name.startswith(f"{part}.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith(f"/{part}/") and node.input[1] in constants:
            name = node.name.removeprefix(f"/{part}/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{name}.weight"] = constants[node.input[1]].T.contiguous()
    positions = (constants[class_position], constants[patch_positions])
    weights["embeddings.position_embeddings"] = torch.cat(positions, dim=1)
    # Only DINOv2's own training masks patches.
    weights["embeddings.mask_token"] = torch.zeros(1, positions[0].shape[-1])
    return {_renamed(name): weight for name, weight in weights.items()}


def _renamed(name: str) -> str:
    for published, here in _ATTENTION.items():
        name = name.replace(published, here)
    return name
