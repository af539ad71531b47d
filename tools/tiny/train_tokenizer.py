"""Train the tiny model's tokenizer: `python -m tools.tiny.train_tokenizer`.

Byte-level BPE with Qwen's splitting rule (every digit a token of its own) and Qwen's
special tokens. Writes tokenizer files to models/tiny-qwen3.
"""

import itertools

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import Qwen2TokenizerFast

from grpo_course import template
from tools import ROOT
from tools.tiny import tiny_corpus

OUT = ROOT / "models" / "tiny-qwen3"
VOCABULARY = 640  # at most; the merges run out before
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# The splitting rule of Qwen2 and Qwen3: words with their leading space, single digits.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(documents: int = 20_000) -> Tokenizer:
    """The tokenizer; text from the corpus and, now and then, the course's prompt."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2,  # and <think>, </think> below
        special_tokens=SPECIAL,
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    corpus = itertools.islice(tiny_corpus.documents(0, ["a"]), documents)
    prompt = template.SYSTEM_PROMPT
    tokenizer.train_from_iterator(itertools.chain(corpus, [prompt] * 400), trainer)
    tokenizer.add_tokens(
        [AddedToken(tag, normalized=False) for tag in ("<think>", "</think>")]
    )
    return tokenizer


if __name__ == "__main__":
    fast = Qwen2TokenizerFast(
        tokenizer_object=train(),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        model_max_length=512,
    )
    fast.save_pretrained(OUT)
    print(f"{len(fast)} tokens -> {OUT.relative_to(ROOT)}")
