"""How fast is a GRPO step? The tutorial's settings, ours, and plain TRL.

    python -m tools.measure.bench_grpo --models FOLDER [VARIANT ...]

Each variant trains in a process of its own on the same GPU, held to the memory of an
A100 with 80 GB, with completions forced to the same length, so that all do the same
work per token. The first step compiles and is told apart; of the following ones the
median counts. One row a variant and machine, beside the ideal from the GPU's own
memory bandwidth and matrix rate, measured here as well.
"""

import time
from dataclasses import replace

from grpo_course.ground import preflight, session
from grpo_course.ground.profile import PROFILES
from tools.measure import gpu_steps
from tools.measure.make_random_model import SIZES

A100 = PROFILES["a100"]
A100_GIB, MODEL = gpu_steps.TIERS["a100"]
TOKENS = 512  # of each completion
PROMPT = 128  # tokens of a prompt, roughly
STEPS = 4  # the first is not counted

# engine, completions in a micro-batch, micro-batches a step, completions in a group
VARIANTS = {
    "tutorial": ("unsloth", 4, 1, 4),
    "unsloth 4 x 8": ("unsloth", 4, 8, 8),
    "unsloth 8 x 4": ("unsloth", 8, 4, 8),
    "unsloth 32 x 1": ("unsloth", 32, 1, 8),
    "unsloth 8 x 8": ("unsloth", 8, 8, 8),
    "unsloth 16 x 8": ("unsloth", 16, 8, 8),
    "plain trl 32 x 1": ("trl", 32, 1, 8),
    "plain trl 8 x 4": ("trl", 8, 4, 8),
    "plain trl 8 x 8": ("trl", 8, 8, 8),
}


def main() -> None:
    sizes = dict.fromkeys(["ideal", *VARIANTS], MODEL)
    output = "gpu-throughput.json"
    gpu_steps.run_each(__spec__.name, "variant", sizes, measure, output)


def measure(name: str, model_name: str) -> dict:
    """Train a few steps; seconds, completion tokens a second, and GiB at the peak."""
    if name == "ideal":
        return ideal()
    engine, batch, micro_batches, group = VARIANTS[name]
    started = time.monotonic()
    session.prepare()
    load = load_unsloth if engine == "unsloth" else load_trl
    model, tokenizer, more = load(model_name)
    loaded = time.monotonic() - started
    took = gpu_steps.grpo_steps(
        model,
        tokenizer,
        TOKENS,
        STEPS,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=micro_batches,
        num_generations=group,
        gradient_checkpointing=True,
        **more,
    )
    return {"start_to_loaded_s": round(loaded, 1)} | took


def load_unsloth(model_name: str):
    """Model and tokenizer as notebooks 01 and 05 load them, with the profile a100."""
    import unsloth  # noqa: F401  # first: it patches the libraries below

    from grpo_course.model import add_adapter, load_base_model

    profile = replace(A100, model_name=model_name, gpu_gib=A100_GIB)
    model, tokenizer = load_base_model(profile)
    return {"model": add_adapter(model, profile)}, tokenizer, {}


def load_trl(model_name: str):
    """The same with TRL and PEFT alone; vLLM then holds weights of its own."""
    from peft import LoraConfig
    from transformers import AutoTokenizer

    from grpo_course.model import TARGET_MODULES

    held = replace(A100, gpu_gib=A100_GIB, gpu_memory_utilization=0.35)
    adapter = LoraConfig(
        r=A100.lora_rank, lora_alpha=A100.lora_alpha, target_modules=TARGET_MODULES
    )
    more = {
        "model_init_kwargs": {"dtype": "bfloat16"},
        "vllm_gpu_memory_utilization": preflight.vllm_share(held),
        "vllm_max_model_length": A100.max_seq_length,
    }
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    return {"model": model_name, "peft_config": adapter}, tokenizer, more


def ideal() -> dict:
    """A step of 32 completions if nothing but the GPU's own limits counted.

    They are measured: a copy within its memory, and a large product in bfloat16.
    """
    import torch
    from triton.testing import do_bench

    size = 8192
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    a, b = (torch.randn(size, size, device="cuda").bfloat16() for _ in range(2))
    copying = do_bench(lambda: target.copy_(source), return_mode="median") / 1000
    multiplying = do_bench(lambda: a @ b, return_mode="median") / 1000
    limits = {
        "bandwidth_tb_per_s": round(2 * source.numel() / copying / 1e12, 2),
        "rate_tflop_per_s": round(2 * size**3 / multiplying / 1e12),
    }
    return {"machine": preflight.machine()} | ideal_step(32, **limits) | limits


def ideal_step(
    completions: int, bandwidth_tb_per_s: float, rate_tflop_per_s: float
) -> dict:
    """Seconds of a step, and of its generation, at a GPU's limits; tokens a second.

    Generating reads all weights and the cache for each token. The loss takes 6 floating
    point operations a weight and token: 2 forward, 2 once more for the checkpoints, and
    2 backward, half of the usual, because frozen weights need no gradient.
    """
    config = SIZES[MODEL]
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    width, inside = config["head_dim"], config["intermediate_size"]
    heads = config["num_attention_heads"] + config["num_key_value_heads"]
    layer = 2 * heads * width * hidden + 3 * hidden * inside
    # The embedding is a look-up; the head is not.
    weights = layers * layer + config["vocab_size"] * hidden
    cache = 4 * layers * config["num_key_value_heads"] * width  # bytes a token
    read = 2 * weights + completions * cache * (PROMPT + TOKENS / 2)
    generating = TOKENS * read / (bandwidth_tb_per_s * 1e12)
    operations = 6 * weights * completions * (PROMPT + TOKENS)
    seconds = generating + operations / (rate_tflop_per_s * 1e12)
    return {
        "completions": completions,
        "tokens": TOKENS,
        "step_s": round(seconds, 2),
        "of_it_generating_s": round(generating, 2),
        "tokens_per_s": round(completions * TOKENS / seconds),
    }


if __name__ == "__main__":
    main()
