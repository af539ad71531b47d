"""What fits where: the memory of GRPO on one GPU or several, by parts, and its price.

    per_gpu("ddp", profile, config, gpu_gib=80)["vLLM's share"]
    dollars(step_seconds=19.05, steps=1000, gpus=1, price=2.5)

The ways are those of recipes/: "ddp" (Unsloth, whose vLLM shares the weights), "server"
(the trainer's GPU; vLLM has another), "fsdp2" (the base in parts on `gpus`), and
"colocate" (TRL alone, with a vLLM of its own on the same GPU). These are estimates;
tests/test_memory.py holds them against the peaks in results/.
"""

from .memory import GIB, training_parts

CUDA = 0.7  # GiB of CUDA itself, with vLLM: loaded minus its share, measured
CACHE = 2.0  # GiB for vLLM's keys and values, at least
WAYS = ("ddp", "server", "fsdp2", "colocate")


def weights(config) -> tuple[int, int]:
    """How many weights a Qwen3 has in one layer, and in all."""
    heads, cache = config.num_attention_heads, config.num_key_value_heads
    attention = 2 * config.hidden_size * config.head_dim * (heads + cache)
    inside = getattr(config, "moe_intermediate_size", config.intermediate_size)
    inside *= getattr(config, "num_experts", 1)
    layer = attention + 3 * config.hidden_size * inside
    words = config.vocab_size * config.hidden_size
    words *= 1 if config.tie_word_embeddings else 2
    return layer, config.num_hidden_layers * layer + words


def adapter_weights(config, rank: int) -> int:
    """How many weights LoRA has on the seven projections of each layer (the attention's
    four only, in a mixture of experts)."""
    heads = config.head_dim * config.num_attention_heads
    cache = config.head_dim * config.num_key_value_heads
    shapes = [(config.hidden_size, n) for n in (heads, cache, cache, heads)]
    if not hasattr(config, "num_experts"):
        shapes += 3 * [(config.hidden_size, config.intermediate_size)]
    return rank * config.num_hidden_layers * sum(map(sum, shapes))


def per_gpu(
    way: str, profile, config, gpu_gib: float, gpus: int = 1, share: float | None = None
) -> dict[str, float]:
    """GiB on a GPU that trains, by parts. share: vLLM's, if not the profile's.

    Raises ValueError for a way that there is none of.
    """
    if way not in WAYS:
        raise ValueError(f"{way!r} is no way: take one of {', '.join(WAYS)}.")
    layer, all_weights = weights(config)
    width = 4 if profile.dtype == "float32" else 2
    base = all_weights * (profile.load_in_4bit and 0.6 or width) / GIB
    sampler = gpu_gib * (share or profile.gpu_memory_utilization or 0)
    found = {"CUDA": CUDA, "base": base}
    if way == "ddp":  # the base is inside vLLM's share
        found = {"CUDA": CUDA, "vLLM's share": max(sampler, base + CACHE)}
    elif way == "colocate":
        found["vLLM's share"] = max(sampler, base + CACHE)
    elif way == "server":  # what makes taking the adapter out again exact
        found["copy of the base"] = width * layer * config.num_hidden_layers / GIB
    elif way == "fsdp2":  # two layers whole: one at work, the next on its way
        found |= {"base": base / gpus, "layers at work": 2 * width * layer / GIB}
        words = config.vocab_size * config.hidden_size
        found["layers at work"] += 2 * width * words / GIB
    trained = adapter_weights(config, profile.lora_rank)
    training = training_parts("grpo", profile, config, trained)
    training["adapter"] /= gpus if way == "fsdp2" else 1
    if way != "ddp":  # TRL keeps the layers' inputs
        inputs = profile.grpo_batch_size * profile.max_seq_length * config.hidden_size
        training["activations"] += inputs * width * config.num_hidden_layers / GIB
    return found | training


def dollars(step_seconds: float, steps: int, gpus: int, price: float) -> float:
    """What `steps` cost, where one GPU costs `price` dollars an hour."""
    return step_seconds * steps * gpus * price / 3600
