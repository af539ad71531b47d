"""Keep what libraries say while they start out of the lessons; errors still show.

with quiet():
    import unsloth  # first: it patches the libraries below
with without_lines("Unsloth: "):
    trainer.train()
"""

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

CHATTY = ("torch.utils._pytree", "torchao", "transformers.distributed.tensor_parallel")
CHATTY += ("transformers.generation",)  # of max_length, which no lesson sets


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what is printed inside; after an error, show it.

    From then on, for the whole process: no library warnings that only the library's
    authors can act on, and no bars while weights load or data is mapped. Bars of
    downloads and of training stay.
    """
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
            _hide_bars()
    except BaseException:
        print(held.getvalue())
        raise


def _hide_bars() -> None:
    """Of transformers (loading) and datasets (mapping); not of downloads."""
    import datasets
    import huggingface_hub.utils
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    huggingface_hub.utils.enable_progress_bars()


@contextmanager
def without_lines(beginning: str) -> Iterator[None]:
    """Drop the lines that begin so from what is printed inside; the rest is shown.

    For a library that prints a line with every step, between those of our own.
    """
    with redirect_stdout(_Sieve(sys.stdout, beginning)):
        yield


class _Sieve:
    """A stream without the lines that begin in a certain way."""

    def __init__(self, stream, beginning: str) -> None:
        self.stream, self.beginning = stream, beginning
        self.ends_a_dropped_line = False  # print writes the end by itself

    def write(self, text: str) -> int:
        drop = text.startswith(self.beginning)
        drop |= self.ends_a_dropped_line and text == "\n"
        self.ends_a_dropped_line = drop and not text.endswith("\n")
        if not drop:
            self.stream.write(text)
        return len(text)

    def __getattr__(self, name: str):
        return getattr(self.stream, name)
