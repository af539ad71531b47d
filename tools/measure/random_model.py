"""A model of Qwen3-8B's dimensions with random weights, to measure memory and speed.

    python -m tools.measure.random_model FOLDER 8b

It can do nothing, but it costs exactly what the real one costs: the same matrices, the
same vocabulary, 16 GB in bfloat16. The tokenizer is that of the tiny model, filled up
with tokens that no text contains, so that every number a random model says is a token.
Needs a GPU (half a minute) or 32 GB of memory and some patience.
"""

import json
import sys
from pathlib import Path

from tools import ROOT

TINY = ROOT / "models" / "tiny-qwen3"
QWEN3_8B = {  # config.json of Qwen/Qwen3-8B
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
    "tie_word_embeddings": False,
}
QWEN3_4B = QWEN3_8B | {  # config.json of Qwen/Qwen3-4B
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "tie_word_embeddings": True,
}
QWEN3_1_7B = QWEN3_8B | {  # config.json of Qwen/Qwen3-1.7B
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "tie_word_embeddings": True,
}
SIZES = {"8b": QWEN3_8B, "4b": QWEN3_4B, "1.7b": QWEN3_1_7B}


def make(folder: Path, dimensions: dict) -> None:
    """Write model, tokenizer and config to `folder`."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
        for name in ("eos", "pad")
    }
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen3ForCausalLM(Qwen3Config(**dimensions, **special))
    model.generation_config.update(**special)
    model.save_pretrained(folder, max_shard_size="4GB")
    tokenizer.save_pretrained(folder)
    _fill_vocabulary(folder / "tokenizer.json", dimensions["vocab_size"])


def _fill_vocabulary(path: Path, size: int) -> None:
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    taken = {*vocabulary.values(), *(t["id"] for t in tokenizer["added_tokens"])}
    free = (number for number in range(size) if number not in taken)
    vocabulary |= {f"<unused {number}>": number for number in free}
    path.write_text(json.dumps(tokenizer))


if __name__ == "__main__":
    make(Path(sys.argv[1]), SIZES[sys.argv[2]])
