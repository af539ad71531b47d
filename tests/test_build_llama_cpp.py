"""`make llama`: what it enters in the converter, without building anything."""

import pytest

from tools.run import build_llama_cpp
from tools.run.nbtools import ROOT

TINY = ROOT / "models" / "tiny-qwen3"
SOURCE = """
        chktxt = 'a small text, 33 words\\n'
        chkhsh = sha256(str(tokenizer.encode(chktxt)).encode()).hexdigest()
        res = None
        if chkhsh == "abc":
            res = "chatglm-bpe"
        return res
"""


def known_as(converter, model):
    """What the edited converter says of a model's tokenizer."""
    import textwrap
    from hashlib import sha256

    from transformers import AutoTokenizer

    body = textwrap.indent(textwrap.dedent(converter.read_text()), "    ")
    space = {"sha256": sha256}
    exec(f"def look_up(tokenizer):\n{body}", space)
    return space["look_up"](AutoTokenizer.from_pretrained(model))


def test_the_tiny_tokenizer_becomes_known_once(tmp_path):
    converter = tmp_path / "base.py"
    converter.write_text(SOURCE)
    assert known_as(converter, TINY) is None
    build_llama_cpp.enter_tokenizer(converter, TINY)
    assert known_as(converter, TINY) == "qwen2"
    once = converter.read_text()
    build_llama_cpp.enter_tokenizer(converter, TINY)
    assert converter.read_text() == once


def test_another_converter_is_left_alone(tmp_path):
    converter = tmp_path / "base.py"
    converter.write_text(SOURCE.replace("res = None", "res = nothing"))
    with pytest.raises(SystemExit):
        build_llama_cpp.enter_tokenizer(converter, TINY)
    assert "nothing" in converter.read_text()


def test_an_own_llama_cpp_is_never_built_over(tmp_path, monkeypatch):
    monkeypatch.setenv("UNSLOTH_LLAMA_CPP_PATH", str(tmp_path / "mine"))
    with pytest.raises(SystemExit):
        build_llama_cpp.main()
    assert not (tmp_path / "mine").exists()


def test_sources_are_put_in_place_whole(tmp_path):
    import tarfile

    source = tmp_path / "pkg-1" / "vendor" / "llama.cpp"
    source.mkdir(parents=True)
    (source / "CMakeLists.txt").write_text("project(llama)")
    with tarfile.open(tmp_path / "pkg.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "pkg-1", "pkg-1")
    target = tmp_path / "cache" / "llama.cpp"
    build_llama_cpp.unpack(tmp_path / "pkg.tar.gz", target)
    assert (target / "CMakeLists.txt").read_text() == "project(llama)"
    assert list(target.parent.iterdir()) == [target]
