"""llama.cpp on this machine: where it is, and how to ask it about a GGUF file.

`make llama` builds it once, into ~/.cache/grpo-course/llama.cpp. An own copy is
used when UNSLOTH_LLAMA_CPP_PATH names its folder. Nothing here downloads anything.
"""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def program(name: str) -> Path | None:
    """The path of one of llama.cpp's programs, or None."""
    found = shutil.which(name, path=folder())  # where Unsloth looks for it, too
    return Path(found) if found else None


def check() -> None:
    """Raise LlamaCppError, one sentence, where a part of llama.cpp is missing."""
    missing = [name for name in PROGRAMS if not program(name)]
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
        found = self._post("completion", {"prompt": prompt, **options})
        cut = found["stop_type"] == "limit"
        return Completion(found["content"], found["tokens_predicted"], cut)

    def token_ids(self, text: str) -> list[int]:
        """A text's tokens; the names of special tokens are read as these tokens."""
        found = self._post("tokenize", {"content": text, "parse_special": True})
        return found["tokens"]

    def render(self, messages: list[dict]) -> str:
        """A conversation by the chat template in the file, ready for an answer."""
        return self._post("apply-template", {"messages": messages})["prompt"]

    def _post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(
            f"{self.url}/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise LlamaCppError(f"llama-server said: {error.read().decode()}") from None


def serve_command(model: Path, port: int, context: int) -> list[str]:
    """The command that serves a GGUF file on this machine only."""
    command = [str(program("llama-server") or "llama-server"), "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    return command + ["--ctx-size", str(context), "--parallel", "1", "--jinja"]


@contextmanager
def serve(model: Path, context: int) -> Iterator[Server]:
    """Start llama-server for a GGUF file, and stop it at the end.

    context: tokens of prompt and completion together.
    """
    check()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile("w+") as log:
        command = serve_command(model, port, context)
        if model.stat().st_size < SMALL:
            command += ["--threads", "1"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", log)
            yield Server(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait()


def _wait(process, url: str, log) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:  # not listening yet, or still loading
            time.sleep(0.1)
    log.seek(0)
    last = (log.read().strip() or "nothing").splitlines()[-1]
    raise LlamaCppError(f"llama-server did not start; its last line: {last}")
