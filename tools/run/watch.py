"""Open SwanLab's dashboard on this machine: `make watch`.

It shows the experiments under COURSE_HOME/swanlog, while they run and after. Nobody
else can reach it: it listens on 127.0.0.1.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from grpo_course.gauges import tracking

HOST, PORT = "127.0.0.1", 5092


def main() -> None:
    folder = tracking.swanlog()
    if not (folder / "runs.swanlab").is_file():
        sys.exit(f"{folder} has no experiment yet: run notebook 03 first.")
    port = free_port(PORT)
    process = dashboard(folder, port)
    try:
        wait_for(f"http://{HOST}:{port}", process)
        print(f"The dashboard: http://{HOST}:{port} (Ctrl+C ends it)", flush=True)
        process.wait()
    except KeyboardInterrupt:
        pass
    finally:
        process.terminate()
        process.wait()


def free_port(wanted: int = 0) -> int:
    """The wanted port if nothing listens there, else another one."""
    with socket.socket() as probe:
        try:
            probe.bind((HOST, wanted))
        except OSError:
            return free_port()
        return probe.getsockname()[1]


def wait_for(address: str, process: subprocess.Popen) -> None:
    """Until the dashboard answers; ends the program where it does not start."""
    while process.poll() is None:
        try:
            urllib.request.urlopen(address).close()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit("The dashboard did not start: is swanlab[dashboard] installed?")


def dashboard(folder: Path, port: int) -> subprocess.Popen:
    """Start the dashboard; what SWANLAB_* variables say does not matter to it."""
    names = [name for name in os.environ if not name.startswith("SWANLAB_")]
    command = [Path(sys.executable).with_name("swanlab"), "watch", folder]
    command += ["--host", HOST, "--port", str(port)]
    environment = {name: os.environ[name] for name in names}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
