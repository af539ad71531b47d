"""llama.cpp on this machine: where it is, and how to ask it about a GGUF file.

`make llama` builds it once, into ~/.cache/grpo-course/llama.cpp. An own copy is
used when UNSLOTH_LLAMA_CPP_PATH names its folder. Nothing here downloads anything.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests

from .generate import Completion

PROGRAMS = ("llama-quantize", "llama-server")
CONVERTER = "convert_hf_to_gguf.py"
START_SECONDS = 600  # until a server has loaded its model
SMALL = 100_000_000  # bytes; below, threads wait for each other longer than they work


class LlamaCppError(RuntimeError):
    """llama.cpp is missing or does not work; the message says what to do."""


def folder() -> Path:
    """Where llama.cpp is, or will be."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    given = os.environ.get("UNSLOTH_LLAMA_CPP_PATH")
    return Path(given or f"{cache}/grpo-course/llama.cpp").expanduser()


def check() -> None:
    """Raise LlamaCppError, one sentence, where a part of llama.cpp is missing."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=folder())]
    missing += [] if (folder() / CONVERTER).is_file() else [CONVERTER]
    if missing:
        raise LlamaCppError(
            f"GGUF needs llama.cpp, and {folder()} has no {', '.join(missing)}: run "
            "`make llama` once, or take the gguf formats out of COURSE_EXPORTS."
        )


def tell_unsloth() -> None:
    """Let Unsloth use this llama.cpp and fetch nothing; call it before the import."""
    os.environ |= {
        "UNSLOTH_LLAMA_CPP_PATH": str(folder()),
        "UNSLOTH_LLAMA_CPP_OFFLINE": "1",
        "UNSLOTH_AUTO_INSTALL": "0",
    }
    if (folder() / CONVERTER).is_file():
        os.environ["UNSLOTH_LLAMA_CPP_SCRIPTS_DIR"] = str(folder())


class Server:
    """A running llama-server; the text of an error is what it answered."""

    def __init__(self, url: str) -> None:
        self.url = url

    def complete(self, prompt: str, max_tokens: int) -> Completion:
        """The greedy completion of a rendered prompt."""
        options = {"temperature": 0, "n_predict": max_tokens, "cache_prompt": False}
        found = self._post("completion", prompt=prompt, **options)
        cut = found["stop_type"] == "limit"
        return Completion(found["content"], found["tokens_predicted"], cut)

    def token_ids(self, text: str) -> list[int]:
        """A text's tokens; the names of special tokens are read as these tokens."""
        return self._post("tokenize", content=text, parse_special=True)["tokens"]

    def render(self, messages: list[dict]) -> str:
        """A conversation by the chat template in the file, ready for an answer."""
        return self._post("apply-template", messages=messages)["prompt"]

    def _post(self, path: str, **body) -> dict:
        reply = requests.post(f"{self.url}/{path}", json=body)
        if not reply.ok:
            raise LlamaCppError(f"llama-server said: {reply.text}")
        return reply.json()


def serve_command(model: Path, port: int, context: int) -> list[str]:
    """The command that serves a GGUF file on this machine only."""
    program = shutil.which("llama-server", path=folder()) or "llama-server"
    command = [program, "--model", str(model), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--ctx-size", str(context)]
    return command + ["--parallel", "1", "--jinja"]


@contextmanager
def serve(model: Path, context: int) -> Iterator[Server]:
    """Start llama-server for a GGUF file, and stop it at the end.

    context: tokens of prompt and completion together. Raises LlamaCppError with the
    server's last line where it does not start.
    """
    check()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = serve_command(model, port, context)
    if model.stat().st_size < SMALL:
        command += ["--threads", "1"]
    server = Server(f"http://127.0.0.1:{port}")
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            if not _ready(process, server.url):
                log.seek(0)
                last = (log.read().strip() or "nothing").splitlines()[-1]
                raise LlamaCppError(f"llama-server did not start; it said: {last}")
            yield server
        finally:
            process.terminate()
            process.wait()


def _ready(process, url: str) -> bool:
    """Wait until the server has loaded its model; False where it died or hangs."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):  # not listening yet
            if requests.get(f"{url}/health").ok:
                return True
        time.sleep(0.1)
    return False
