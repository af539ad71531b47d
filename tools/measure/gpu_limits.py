"""What a GRPO step would take if nothing but the GPU's own limits counted."""

from types import SimpleNamespace

from grpo_course import scale_out
from grpo_course.ground.hardware import machine
from tools.measure.random_model import SIZES

TOKENS, PROMPT = 512, 128  # of a completion; of a prompt, roughly


def ideal() -> dict:
    """A step of 32 completions on this GPU.

    They are measured: a copy within its memory, and a large product in bfloat16.
    """
    import torch
    from triton.testing import do_bench

    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    a, b = torch.randn(2, 8192, 8192, device="cuda").bfloat16()
    copying = do_bench(lambda: target.copy_(source), return_mode="median") / 1000
    multiplying = do_bench(lambda: a @ b, return_mode="median") / 1000
    limits = {
        "bandwidth_tb_per_s": round(2 * source.numel() / copying / 1e12, 2),
        "rate_tflop_per_s": round(2 * len(a) ** 3 / multiplying / 1e12),
    }
    return {"machine": machine()} | ideal_step(32, **limits) | limits


def ideal_step(
    completions: int, bandwidth_tb_per_s: float, rate_tflop_per_s: float
) -> dict:
    """Seconds of a step, and of its generation, at a GPU's limits; tokens a second.

    Generating reads all weights and the cache for each token. The loss takes 6 floating
    point operations a weight and token: 2 forward, 2 once more for the checkpoints, and
    2 backward, half of the usual, because frozen weights need no gradient.
    """
    config = SimpleNamespace(**SIZES["8b"])
    layers, width = config.num_hidden_layers, config.head_dim
    # The embedding is a look-up; the head is not.
    weights = scale_out.weights(config)[1] - config.vocab_size * config.hidden_size
    cache = 4 * layers * config.num_key_value_heads * width  # bytes a token
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
