"""Build llama.cpp once, for the GGUF exports of notebook 06: `make llama`.

The sources come from the package index, pinned by digest: the source package of
llama-cpp-python carries all of llama.cpp. Needs cmake and a C++ compiler, 77 MB of
download, 1 GB of disk, and 10 to 30 minutes. An interrupted build goes on.

llama.cpp's converter knows a tokenizer by a fingerprint of what it does with one test
text, and refuses others. The tiny model has a vocabulary of its own, split by Qwen's
rule, so its fingerprint is entered as "qwen2"; notebook 06 proves that the tokens of
real prompts are the same.
"""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from grpo_course.ground import llama_cpp
from tools import write_whole
from tools.run import nbtools

PACKAGE = "llama-cpp-python==0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",  # two programs that need no other file
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",  # it would be fetched from a hub
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
}
TINY = nbtools.ROOT / "models" / "tiny-qwen3"


def main() -> None:
    folder = llama_cpp.folder()
    if os.environ.get("UNSLOTH_LLAMA_CPP_PATH"):
        sys.exit(f"UNSLOTH_LLAMA_CPP_PATH is set: {folder} is yours, not built here.")
    try:
        llama_cpp.check()
    except llama_cpp.LlamaCppError:
        build(folder)
    enter_tokenizer(folder / "conversion" / "base.py", TINY)
    print(f"llama.cpp is ready: {folder}")


def build(folder: Path) -> None:
    """Fetch, unpack and compile what is not there yet."""
    for name in ("cmake", "c++"):
        if not shutil.which(name):
            sys.exit(
                f"llama.cpp cannot be built without {name}: install it "
                "(Debian and Ubuntu: `sudo apt install cmake build-essential`)."
            )
    if not folder.exists():
        with tempfile.TemporaryDirectory() as scratch:
            wanted = Path(scratch, "wanted.txt")
            wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
            download = [sys.executable, "-m", "pip", "download", "--no-deps"]
            download += ["--no-binary", "llama-cpp-python", "-d", scratch, "-r", wanted]
            run("fetching the sources", download)
            (archive,) = Path(scratch).glob("*.tar.gz")
            unpack(archive, folder)
    made = folder / "build"
    options = [f"-D{name}={value}" for name, value in OPTIONS.items()]
    targets = ["--target", *llama_cpp.PROGRAMS, "-j", str(os.cpu_count() or 1)]
    run("configuring", ["cmake", "-S", folder, "-B", made, *options])
    run("compiling", ["cmake", "--build", made, *targets])
    for name in llama_cpp.PROGRAMS:
        shutil.copy2(made / "bin" / name, folder / f"{name}.new")
        (folder / f"{name}.new").replace(folder / name)


def unpack(archive: Path, folder: Path) -> None:
    """Put the package's vendor/llama.cpp in place, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        (source,) = Path(scratch).glob("*/vendor/llama.cpp")
        source.rename(folder)


def run(what: str, command: list) -> None:
    """Run a command that shows its own progress; stop where it fails."""
    print(f"llama.cpp: {what}", flush=True)
    if subprocess.run([str(part) for part in command]).returncode:
        sys.exit(f"llama.cpp is not built: {what} failed, as it says above.")


def enter_tokenizer(converter: Path, model: Path) -> None:
    """Enter a tokenizer with Qwen's splitting rule in the converter's list, once."""
    source = converter.read_text()
    fingerprint = fingerprint_of(source, model)
    if fingerprint in source:
        return
    anchor = "        res = None\n"
    entry = f'        if chkhsh == "{fingerprint}":\n            res = "qwen2"\n'
    if source.count(anchor) != 1:
        sys.exit(f"{converter} is not the converter that this course knows.")
    write_whole(converter, source.replace(anchor, anchor + entry))


def fingerprint_of(source: str, model: Path) -> str:
    """What the converter will compute for the tokenizer of a model's folder."""
    from transformers import AutoTokenizer

    test_text = ast.literal_eval(re.search(r"chktxt = ('.*')", source)[1])
    tokens = AutoTokenizer.from_pretrained(model).encode(test_text)
    return hashlib.sha256(str(tokens).encode()).hexdigest()


if __name__ == "__main__":
    main()
