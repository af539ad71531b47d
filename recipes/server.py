"""vLLM's server, on GPUs of its own, as TRL's trainer needs it."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from recipes.guard import ends_with_its_parent


class ServerError(RuntimeError):
    """A server that did not start; the message says where its log is."""


def start(options: dict, profile, log: Path) -> subprocess.Popen:
    """Start `vllm serve` and wait until it answers; it ends with this process.

    options: the table [server] of a recipe: gpus, port, share (of their memory),
    wait_s, arguments. Raises ServerError, one sentence.
    """
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")  # also for the trainer's NCCL
    gpus = options["gpus"].split(",")
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]
    command += [profile.model_source, "--host", "127.0.0.1"]
    command += ["--port", str(options["port"])]
    command += ["--max-model-len", str(profile.max_seq_length)]
    command += ["--gpu-memory-utilization", str(options["share"])]
    command += ["--dtype", profile.dtype, "--tensor-parallel-size", str(len(gpus))]
    command += options["arguments"]
    os.environ["no_proxy"] = os.environ.get("no_proxy", "") + ",127.0.0.1"
    group = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_")
    environment = {  # it is no part of torchrun's group
        name: value for name, value in os.environ.items() if not name.startswith(group)
    }
    environment |= {"CUDA_VISIBLE_DEVICES": options["gpus"]}
    environment |= {"VLLM_SERVER_DEV_MODE": "1"}  # opens the way for new weights
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        server = subprocess.Popen(
            command,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=ends_with_its_parent,
        )
    deadline = time.monotonic() + options["wait_s"]
    while not _answers(options["port"]):
        if server.poll() is not None:
            raise ServerError(f"vLLM's server ended ({server.returncode}): see {log}.")
        if time.monotonic() > deadline:
            stop(server)
            waited = f"did not answer within {options['wait_s']} s"
            raise ServerError(f"vLLM's server {waited}: see {log}, or raise wait_s.")
        time.sleep(1)
    return server


def stop(server: subprocess.Popen) -> None:
    """End the server and the workers that it has started."""
    for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        try:
            os.killpg(server.pid, number)
            server.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
        return True
    except OSError:
        return False
