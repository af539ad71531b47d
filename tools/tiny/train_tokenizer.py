"""Train the tiny model's tokenizer: `python -m tools.tiny.train_tokenizer`.

Qwen's own, with its splitting rule (every digit is a token) and special tokens, and a
small vocabulary of byte-level BPE. Writes tokenizer files to models/tiny-qwen3.
"""

from itertools import chain, islice

from tokenizers import AddedToken
from transformers import Qwen2Tokenizer

from grpo_course import template
from tools import ROOT
from tools.tiny import tiny_corpus

OUT = ROOT / "models" / "tiny-qwen3"
VOCABULARY = 640  # at most; the merges run out before
SPECIAL, THINK = ("<|im_start|>", "<|im_end|>"), ("<think>", "</think>")


def train(documents: int = 20_000) -> Qwen2Tokenizer:
    """The tokenizer; text from the corpus and, now and then, the course's prompt."""
    corpus = islice(tiny_corpus.documents(0, ["a"]), documents)
    qwen = Qwen2Tokenizer(unk_token=None, model_max_length=512)
    qwen.add_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer = qwen.train_new_from_iterator(
        chain(corpus, [template.SYSTEM_PROMPT] * 400),
        VOCABULARY - len(THINK),
        show_progress=False,
    )
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in THINK])
    tokenizer.eos_token = "<|im_end|>"  # and it pads with <|endoftext|>
    return tokenizer


if __name__ == "__main__":
    tokenizer = train()
    tokenizer.save_pretrained(OUT)
    print(f"{len(tokenizer)} tokens -> {OUT.relative_to(ROOT)}")
