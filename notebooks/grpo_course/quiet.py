"""Keep what libraries say while they start out of the lessons; errors still show.

with quiet():
    import unsloth  # first: it patches the libraries below
"""

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

CHATTY = ("torch.utils._pytree", "torchao", "transformers.distributed.tensor_parallel")


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
