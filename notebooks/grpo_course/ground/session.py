"""What starts a notebook's session: where caches go, quiet imports, keys.

with quiet():
    import unsloth  # first: it patches the libraries below
with without_lines("Unsloth: "):
    trainer.train()
"""

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from . import versions

CACHES = {  # variable -> folder below COURSE_HOME/cache
    "UNSLOTH_COMPILE_LOCATION": "unsloth",  # Unsloth's generated trainers
    "UNSLOTH_MEGA_CACHE_DIR": "compiled",  # its compiled training graphs
    "VLLM_CACHE_ROOT": "vllm",  # vLLM's compiled graphs
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",  # kernels that vLLM compiles with nvcc
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}
CHATTY = ("torch.utils._pytree", "torchao", "transformers.generation")
CHATTY += ("transformers.distributed.tensor_parallel",)
KEYS = ("HF_TOKEN", "SWANLAB_API_KEY")
# A token of the hub, a password in an address, 20 letters and digits that are no word.
LIKE_A_KEY = r"(?<![^\W_])hf_\w{6,}|(?<=://)[^/@\s]+(?=@)"
LIKE_A_KEY += r"|(?<![^\W_])(?![A-Z]?[a-z]+(?![^\W_]))[^\W_]{20,}"


def prepare() -> None:
    """Set what torch, Unsloth and vLLM read when they load; what is set already stays.

    The next notebook starts warm, as compilers keep their work in COURSE_HOME. A thread
    spins only briefly: else a busy machine's steps are two to four times as slow.
    """
    from .stages import home

    if any(capability < 8 for *_, capability in versions.gpus()):
        # FlashInfer fails there, on a T4; vLLM has Triton's attention for it, and would
        # take it by itself, if Unsloth did not ask for FlashInfer's sampler.
        os.environ.setdefault("UNSLOTH_VLLM_NO_FLASHINFER", "1")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for variable, folder in CACHES.items():
        os.environ.setdefault(variable, str(home() / "cache" / folder))


@contextmanager
def quiet() -> Iterator[None]:
    """`prepare`, then hold back what is printed inside; after an error, show it.

    From then on no warnings for a library's authors, no bars but of downloads.
    """
    prepare()
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    for category in (DeprecationWarning, FutureWarning):
        warnings.simplefilter("ignore", category)
    warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm's bars
    held = io.StringIO()
    held.fileno = sys.stdout.fileno  # vLLM asks for it while it starts
    try:
        with redirect_stdout(held):
            yield
            import datasets
            import transformers
            from huggingface_hub.utils import enable_progress_bars
    except BaseException:
        print(held.getvalue())
        raise
    if not versions.gpus():
        _share_heads()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    enable_progress_bars()


def _share_heads() -> None:
    """Spare a CPU the copies of all keys and values that each new token costs it.

    Where there is a mask, transformers makes one for each query head of a group. Torch
    needs none, and answers with the same bits; only gradients would be slightly others.
    """
    import torch
    from transformers.integrations import sdpa_attention

    usual = sdpa_attention.use_gqa_in_sdpa
    if usual.__module__ == __name__:  # done by an earlier `quiet`
        return
    sdpa_attention.use_gqa_in_sdpa = lambda *tensors: (
        not torch.is_grad_enabled() or usual(*tensors)
    )


@contextmanager
def without_lines(beginning: str) -> Iterator[None]:
    """Drop what a library prints with every step: lines that begin so."""
    shown, held, dropped = sys.stdout, io.StringIO(), ""

    def write(text: str) -> int:
        nonlocal dropped  # print writes the end of a line by itself
        end_of_it = dropped and not dropped.endswith("\n") and text == "\n"
        dropped = text if text.startswith(beginning) or end_of_it else ""
        return len(text) if dropped else shown.write(text)

    held.write, held.flush, held.fileno = write, shown.flush, shown.fileno
    with redirect_stdout(held):
        yield


def secret(name: str) -> str | None:
    """A key from the environment; None where it is not set, or empty."""
    return os.environ.get(name, "").strip() or None


def masked(text: str) -> str:
    """A text without our keys, quoted or line by line, and what looks like a key."""
    for name, key in zip(KEYS, map(secret, KEYS), strict=True):
        for form in (key, repr(key)[1:-1], *key.split()) if key else ():
            text = text.replace(form, f"<{name}>")
    return re.sub(LIKE_A_KEY, "<secret>", text)
