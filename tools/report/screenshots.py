"""Pictures of SwanLab's dashboard for the notebooks: `make screenshots`.

Needs Chromium on the PATH (Debian and Ubuntu: `sudo apt install chromium`) and, in
COURSE_HOME, the experiments of a real run of notebooks 03 and 05. Writes
images/swanlab_sft.png, images/swanlab_grpo.png and images/swanlab_completions.png.
"""

import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests
from PIL import Image, ImageChops

from grpo_course.ground import stages
from tools.run import nbtools

HOST = "127.0.0.1"
IMAGES = nbtools.ROOT / "images"
MAX_BYTES = 200_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
OPTIONS += ["--no-sandbox", "--disable-background-networking", "--disable-sync"]
OPTIONS += ["--disable-component-update", "--virtual-time-budget=20000"]
PICTURES = {  # name -> experiment, and how much of its page, in pixels from the top
    "swanlab_sft.png": ("sft", 1190),
    "swanlab_grpo.png": ("grpo", 1190),
}
TALL, TABLE, MENU = 6000, 470, 300  # pixels: a page, the table at its end, the menu


def main() -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    folder = stages.home() / "swanlog"
    if not browser:
        sys.exit("No Chromium here: `sudo apt install chromium`, then try again.")
    if not (folder / "runs.swanlab").is_file():
        sys.exit(f"{folder} has no experiment yet: run the notebooks.")
    with dashboard(folder) as address:
        project = requests.get(f"{address}/api/v1/project", timeout=60).json()["data"]
        numbers = newest(project["experiments"])
        for name, (experiment, height) in PICTURES.items():
            page = f"{address}/experiment/{numbers[experiment]}/chart"
            save(screenshot(browser, page, height), IMAGES / name)
        last = end_of_page(screenshot(browser, page, TALL))
        save(last, IMAGES / "swanlab_completions.png")


@contextmanager
def dashboard(folder: Path) -> Iterator[str]:
    """The address of SwanLab's dashboard while it runs, as `make watch` opens it."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = str(probe.getsockname()[1])
    program = Path(sys.executable).with_name("swanlab")
    command = [program, "watch", folder, "--host", HOST, "--port", port]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            with suppress(requests.ConnectionError):
                requests.get(f"http://{HOST}:{port}", timeout=60)
                break
            time.sleep(0.1)
        else:
            sys.exit("The dashboard did not start: is swanlab[dashboard] installed?")
        yield f"http://{HOST}:{port}"
    finally:
        process.terminate()
        process.wait()


def newest(experiments: list[dict]) -> dict[str, int]:
    """Name -> number of the newest finished experiment of each stage.

    Ends the program where one is missing.
    """
    done = sorted(run["id"] for run in experiments if run["status"] == 1)
    names = {run["id"]: run["name"].partition("-")[0] for run in experiments}
    found = {names[number]: number for number in done}
    for name in ("sft", "grpo"):
        if name not in found:
            sys.exit(f"There is no finished experiment {name}: run the notebooks.")
    return found


def screenshot(browser: str, page: str, height: int) -> Image.Image:
    """A picture of a page, 1400 pixels wide."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "page.png"
        command = [browser, *OPTIONS, f"--user-data-dir={scratch}/profile"]
        command += [f"--window-size=1400,{height}", f"--screenshot={target}", page]
        done = subprocess.run(command, capture_output=True, text=True)
        if not target.is_file():
            sys.exit(f"Chromium made no picture: {done.stderr.strip()[-300:]}")
        return Image.open(io.BytesIO(target.read_bytes())).convert("RGB")


def end_of_page(picture: Image.Image) -> Image.Image:
    """The last thing on a page, which for GRPO is the table of completions."""
    content = picture.crop((MENU, 0, picture.width, picture.height))
    empty = Image.new("RGB", content.size, content.getpixel((5, content.height - 1)))
    *_, bottom = ImageChops.difference(content, empty).getbbox()
    return content.crop((0, bottom - TABLE, content.width, bottom + 15))


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG of at most 200 kB: 1200 pixels wide, 64 colours or fewer."""
    height = round(picture.height * 1200 / picture.width)
    small = picture.resize((1200, height), Image.Resampling.LANCZOS)
    for colours in (128, 64, 32, 16):
        data = io.BytesIO()
        small.quantize(colours).save(data, "PNG", optimize=True)
        if len(data.getvalue()) <= MAX_BYTES:
            break
    else:
        sys.exit(f"{path.name} would have more than {MAX_BYTES:,} bytes.")
    path.write_bytes(data.getvalue())
    print(f"{path.relative_to(nbtools.ROOT)}: {len(data.getvalue()):,} bytes")


if __name__ == "__main__":
    main()
