"""Let a model complete prompts: with vLLM where it has that, else with transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Completion:
    """What the model wrote after one prompt.

    `tokens` counts its tokens, the closing eos included; `truncated` says that it ran
    into the limit before it closed.
    """

    text: str
    tokens: int
    truncated: bool


def generate(
    model,
    tokenizer,
    prompts: list[str],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    min_p: float = 0.0,
    batch_size: int = 64,
    seed: int = 3407,
    adapter: str | None = None,
) -> list[Completion]:
    """Complete rendered prompts; greedy at temperature 0, in the prompts' order.

    With vLLM (a model loaded with fast_inference=True) the adapter is read from the
    folder `adapter`; without it, the model answers with the adapter it carries, and
    `adapter` is not needed.
    """
    if hasattr(model, "vllm_engine"):
        options = {"max_tokens": max_new_tokens, "temperature": temperature}
        return _generate_vllm(model, prompts, adapter, seed, min_p=min_p, **options)
    import torch

    torch.manual_seed(seed)
    options = {"do_sample": temperature > 0, "max_new_tokens": max_new_tokens}
    if temperature > 0:
        options |= {"temperature": temperature, "min_p": min_p}
        options |= {"top_k": 0, "top_p": 1.0}  # off
    # Prompts of similar length share a batch: less padding.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    done: dict[int, Completion] = {}
    ends = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    how = {"return_tensors": "pt", "padding": True, "padding_side": "left"}
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            texts = [prompts[i] for i in batch]
            inputs = tokenizer(texts, add_special_tokens=False, **how).to(model.device)
            with torch.inference_mode():
                output = model.generate(**inputs, **options)
            new = output[:, inputs.input_ids.shape[1] :].tolist()
            for i, ids in zip(batch, new, strict=True):
                done[i] = _completion(tokenizer, ids, ends)
    finally:
        model.train(was_training)
    return [done[i] for i in range(len(prompts))]


@contextmanager
def merged(model) -> Iterator[None]:
    """Let the weights hold the LoRA adapter meanwhile: a third less to compute.

    Only in float32, where a score moves by about a millionth; afterwards the weights
    are what they were, bit for bit. Any other model stays as it is, and so does one
    that vLLM shares, which adds the adapter itself.
    """
    alone = hasattr(model, "peft_config") and not hasattr(model, "vllm_engine")
    layers = [m for m in model.modules() if hasattr(m, "merge")] if alone else []
    weights = [layer.base_layer.weight for layer in layers if not layer.merged]
    if not weights or str(weights[0].dtype) != "torch.float32":
        yield
        return
    kept = [weight.detach().clone() for weight in weights]
    model.merge_adapter()
    try:
        yield
    finally:
        model.unmerge_adapter()  # which subtracts, and rounds
        for weight, before in zip(weights, kept, strict=True):
            weight.data.copy_(before)


def _completion(tokenizer, ids: list[int], ends: set[int]) -> Completion:
    last = next((i for i, token in enumerate(ids) if token in ends), None)
    if last is not None:  # what follows is padding
        ids = ids[: last + 1]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return Completion(text, len(ids), truncated=last is None)


def _generate_vllm(model, prompts, adapter, seed, **options):
    from vllm import SamplingParams

    # A seed for each request: with one for all, equal prompts get equal completions.
    seeds = range(seed, seed + len(prompts))
    sampling = [SamplingParams(seed=number, **options) for number in seeds]
    how = {"lora_request": model.load_lora(adapter) if adapter else None}
    return of_vllm(model.fast_generate(prompts, sampling, use_tqdm=False, **how))


def of_vllm(replies) -> list[Completion]:
    """The completions in what vLLM returns, one for each prompt."""
    answers = [reply.outputs[0] for reply in replies]
    return [
        Completion(a.text, len(a.token_ids), a.finish_reason == "length")
        for a in answers
    ]
