"""Pretrain the embedded tiny model: `python -m tools.tiny.train_base`.

A Qwen3ForCausalLM small enough to commit, trained from scratch on tiny_corpus with a
fixed seed; minutes on two CPU cores, seconds on a GPU. Run train_tokenizer first.
Writes config, bf16 safetensors and training.json to models/tiny-qwen3.
"""

import json
import re
import time

import pandas as pd
import torch
from transformers import AutoTokenizer, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from grpo_course.ground import base_model
from grpo_course.ground.generate import generate
from grpo_course.ground.styles import solution_style
from tools import ROOT
from tools.tiny import arithmetic, tiny_corpus

OUT = ROOT / "models" / "tiny-qwen3"
SEED = 3407
TOKENS = 5_400_000
BLOCK = 256  # tokens in a training sequence
BATCH = 16  # sequences in a step
WARMUP = 20  # steps


def blocks(tokenizer, tokens: int) -> torch.Tensor:
    """The pretraining text as packed sequences, shape (tokens // BLOCK, BLOCK)."""
    vocabulary = sorted(tokenizer.get_vocab())
    vocabulary = [tokenizer.convert_tokens_to_string([t]) for t in vocabulary]
    end, stream = tokenizer.pad_token_id, []
    for text in tiny_corpus.documents(SEED, vocabulary):
        stream += tokenizer(text).input_ids + [end]
        if len(stream) >= tokens:
            break
    count = tokens // BLOCK
    return torch.tensor(stream[: count * BLOCK]).view(count, BLOCK)


def build(tokenizer) -> Qwen3ForCausalLM:
    """A fresh model of Qwen3's architecture, 4.9 M parameters."""
    torch.manual_seed(SEED)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def pretrain(model, data: torch.Tensor, device: str) -> float:
    """One pass over the data; Muon on the matrices, AdamW on the rest."""
    matrices, rest = [], []
    for name, weight in model.named_parameters():
        inner = weight.ndim == 2 and "embed" not in name
        (matrices if inner else rest).append(weight)
    optimizers = [
        torch.optim.Muon(matrices, lr=2e-2, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    steps = len(data) // BATCH

    def scale(step: int) -> float:  # warm up, then decay linearly to a tenth
        return min(1.0, (step + 1) / WARMUP) * (1 - 0.9 * step / steps)

    rates = [torch.optim.lr_scheduler.LambdaLR(o, scale) for o in optimizers]
    model.train()
    for step in range(steps):
        batch = data[step * BATCH : (step + 1) * BATCH].to(device)
        loss = model(batch, labels=batch).loss
        loss.backward()
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            rate.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step + 1:4d}/{steps}  loss {loss.item():.3f}", flush=True)
    return loss.item()


def report(model, tokenizer) -> dict:
    """Accuracy on 1,000 test problems in the plain form; by style where sampled."""
    problems = arithmetic.make_problems(1000, "test", seed=1)
    prompts = [f"Question: {problem.question}\nAnswer:" for problem in problems]
    options = {"max_new_tokens": 144, "batch_size": 250, "seed": SEED}

    def marked(temperature: float) -> pd.DataFrame:
        found = generate(model, tokenizer, prompts, temperature=temperature, **options)
        texts = [completion.text for completion in found]
        ends = [re.findall(r"The answer is (\d+)\.", text)[-1:] for text in texts]
        right = [end == [str(p.answer)] for end, p in zip(ends, problems, strict=True)]
        styles = map(solution_style, texts)
        return pd.DataFrame({"style": styles, "right": right})

    greedy, by_style = marked(0.0), marked(1.0).groupby("style")["right"]
    sampled = by_style.agg(n="size", accuracy="mean").round(3).to_dict("index")
    return {
        "n": len(problems),
        "greedy_accuracy": greedy["right"].mean(),
        "greedy_styles": greedy["style"].value_counts().to_dict(),
        "sampled": sampled,
    }


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    started = time.time()
    tokenizer = AutoTokenizer.from_pretrained(OUT)
    data = blocks(tokenizer, TOKENS)
    model = build(tokenizer).to(device)
    loss = pretrain(model, data, device)
    model = model.to(torch.bfloat16)  # what is committed is what is measured
    # Qwen's own files stop generation at either of the two, and so does this one.
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    facts = {
        "parameters": model.num_parameters(),
        "tokens": data.numel(),
        "seed": SEED,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "final_loss": round(loss, 4),
        "training_minutes": round((time.time() - started) / 60, 1),
        **report(model.float(), tokenizer),
    }
    model.to(torch.bfloat16).save_pretrained(OUT)
    (OUT / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    (OUT.parent / "SHA256SUMS").write_text(base_model.sums(OUT))
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
