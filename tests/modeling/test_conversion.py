from pathlib import Path

import pytest
import torch
from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from src.core.errors import UserError
from src.modeling import conversion
from tests.pretrained import POSITIONS, small_tokenizer, write_gguf, write_onnx


@pytest.fixture
def llama() -> LlamaForCausalLM:
    size = len(small_tokenizer())
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**shape, **heads, vocab_size=size, tie_word_embeddings=True)).eval()


def test_llama_keeps_its_weights(llama: LlamaForCausalLM, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_gguf(tmp_path / "small.gguf", llama)
    weights = conversion.read_llama(tmp_path / "small.gguf")
    assert weights.keys() == llama.model.state_dict().keys()
    assert [name for name, weight in llama.model.state_dict().items() if not torch.equal(weights[name], weight)] == []
    assert not capfd.readouterr().err


def test_tokenizer_splits_digits(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf", llama)
    tokenizer = conversion.read_tokenizer(tmp_path / "small.gguf")
    assert len(tokenizer) == llama.config.vocab_size
    assert tokenizer.tokenize("<|im_start|>") == ["<|im_start|>"]
    assert tokenizer.tokenize("  20") == ["Ġ", "Ġ", "2", "0"]
    text = "so happy  today 2024\n\N{GRINNING FACE}"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_dinov2_keeps_its_weights(tmp_path: Path) -> None:
    config = Dinov2Config(hidden_size=32, num_hidden_layers=12, num_attention_heads=2, image_size=56, patch_size=14)
    torch.manual_seed(1)
    model = Dinov2Model(config)
    write_onnx(tmp_path / "small.onnx", model)
    weights = conversion.read_dinov2(tmp_path / "small.onnx", "backbone", *POSITIONS)
    expected = {**model.state_dict(), "embeddings.mask_token": torch.zeros(1, 32)}
    assert weights.keys() == expected.keys()
    assert [name for name, weight in expected.items() if not torch.equal(weights[name], weight)] == []


def test_missing_readers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    conversion.require_readers()
    monkeypatch.setattr(conversion, "find_spec", {"gguf": "installed"}.get)
    with pytest.raises(UserError, match="without onnx: pip install"):
        conversion.require_readers()
