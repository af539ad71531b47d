"""What starts a notebook's session: variables, quiet imports, keys that stay hidden."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from grpo_course.ground import paths, session, versions
from grpo_course.ground import profile as profiles
from grpo_course.ground.session import masked, without_lines

SCRIPT = """
import os, sys
before = dict(os.environ)
import grpo_course.template
assert not {*sys.argv[1:]} & os.environ.keys() - before.keys()
assert not os.listdir(os.environ["COURSE_HOME"])
from grpo_course.ground.session import quiet
beginning = quiet()
beginning.__enter__()
print(*(os.environ[name] for name in sys.argv[1:]), sep="\\n", file=sys.stderr)
os._exit(0)
"""


@pytest.mark.parametrize("given", [{}, {"VLLM_CACHE_ROOT": "/elsewhere"}])
def test_a_session_begins_with_quiet_and_not_with_an_import(tmp_path, given):
    environment = os.environ | {"COURSE_HOME": str(tmp_path)}
    names = [*session.CACHES, "GOMP_SPINCOUNT"]
    for name in names:
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names],
        env=environment | given,
        cwd=paths.REPO / "notebooks",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = dict(zip(names, done.stderr.split(), strict=True))
    folders = {n: f"{tmp_path}/cache/{f}" for n, f in session.CACHES.items()}
    assert found == folders | {"GOMP_SPINCOUNT": "10000"} | given
    assert not list(tmp_path.iterdir())  # nothing is created until it is needed


@pytest.mark.parametrize(
    ("capability", "given", "wanted"),
    [(7.5, None, "1"), (8.0, None, None), (7.5, "0", "0")],
)
def test_vllm_does_without_flashinfer_on_a_t4(monkeypatch, capability, given, wanted):
    monkeypatch.setattr(
        os, "environ", {"UNSLOTH_VLLM_NO_FLASHINFER": given} if given else {}
    )
    monkeypatch.setattr(versions, "gpus", lambda: [("a GPU", 580, capability)])
    session.prepare()
    assert os.environ.get("UNSLOTH_VLLM_NO_FLASHINFER") == wanted


def test_what_is_printed_in_quiet_shows_after_an_error_only(capsys):
    with session.quiet():
        print("welcome")
    assert "welcome" not in capsys.readouterr().out
    with pytest.raises(ZeroDivisionError), session.quiet():
        print("what led to it")
        1 / 0  # noqa: B018
    assert "what led to it" in capsys.readouterr().out


def test_a_library_does_not_write_into_the_progress_line(capsys):
    with without_lines("Unsloth: "):
        print("\rstep 1 of 2", end="", flush=True)
        print("Unsloth: keeps 3 of 9 weights")
        sys.stdout.write("Unsloth: in one piece\n")
        print()
        print("\rstep 2 of 2")
        print("No Unsloth: at the beginning")
    print("Unsloth: is heard again")
    lines = ["\rstep 1 of 2", "\rstep 2 of 2", "No Unsloth: at the beginning"]
    lines.append("Unsloth: is heard again")
    assert capsys.readouterr().out == "\n".join(lines) + "\n"


def test_a_key_does_not_get_into_a_message(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert session.secret("HF_TOKEN") is None
    assert masked("it is given") == "it is given"
    monkeypatch.setenv("HF_TOKEN", " given ")
    assert session.secret("HF_TOKEN") == "given"
    assert masked("it is given") == "it is <HF_TOKEN>"
    monkeypatch.setenv("HF_TOKEN", "secretA\nsecretB")  # two lines pasted
    told = f"no header: {b'Bearer secretA' + bytes([10]) + b'secretB'!r}, secretB"
    assert "secretA" in told and "secret" not in masked(told)


@pytest.mark.parametrize(
    "key",
    ["hf_abcDEFghi123", "Xk3vT9qLw2ZpRb7nYc5Md", "0123456789abcdef" * 4]
    + ["QWERTYUIOPASDFGHJKLZ", "sk_live_51Hx8Kd92jfPq0sLmZr7Tv"],
)
@pytest.mark.parametrize("around", ["{}", "owner/{}", "track='{}' is", "a_{}.x"])
def test_what_looks_like_a_key_is_masked(key, around):
    assert key[-9:] not in masked(around.format(key))


@pytest.mark.parametrize(
    "text",
    [
        "acme/Qwen2.5-VL-72B-Instruct",
        "must be at most 4294967295",
        "otorhinolaryngologist",
    ]
    + ["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "/home/a/test_of_long_names_0/x"],
)
def test_what_is_no_key_is_shown(text):
    assert masked(text) == text


def test_a_password_in_an_address_is_masked():
    assert masked("https://me:pw@host/x") == "https://<secret>@host/x"


@pytest.mark.parametrize("variable", ["COURSE_TRACK", "COURSE_HUB_REPO"])
def test_a_key_given_as_a_setting_is_not_echoed(variable, monkeypatch):
    from grpo_course.ground.profile import load_profile

    monkeypatch.setenv("COURSE_PROFILE", "cpu")
    monkeypatch.setenv(variable, "Xk3vT9qLw2ZpRb7nYc5Md")
    with pytest.raises(profiles.ProfileError) as refusal:
        load_profile()
    assert "Xk3vT9" not in str(refusal.value)


def test_attention_on_a_cpu_copies_no_heads_and_gives_the_same_bits(monkeypatch):
    import torch
    from transformers.integrations import sdpa_attention

    group, usual = SimpleNamespace(num_key_value_groups=2), sdpa_attention.repeat_kv
    copied = []
    monkeypatch.setattr(
        sdpa_attention, "use_gqa_in_sdpa", lambda mask, *_: mask is None
    )
    monkeypatch.setattr(
        sdpa_attention, "repeat_kv", lambda *a: copied.append(1) or usual(*a)
    )
    monkeypatch.setattr(versions, "gpus", list)

    def attend(new):  # tokens after 90 others, for 20 padded prompts
        torch.manual_seed(0)
        query, key, value = (torch.randn(20, h, n, 64) for h, n in shapes(new))
        mask = torch.rand(20, 1, new, 90 + new) > 0.3
        return sdpa_attention.sdpa_attention_forward(group, query, key, value, mask)[0]

    def shapes(new):
        return (4, new), (2, 90 + new), (2, 90 + new)

    before = [attend(new) for new in (1, 40)]
    assert len(copied) == 4
    with session.quiet():
        pass
    shared = sdpa_attention.use_gqa_in_sdpa
    with session.quiet():
        pass
    assert sdpa_attention.use_gqa_in_sdpa is shared  # not once more for each `quiet`
    with torch.no_grad():
        assert all(map(torch.equal, before, [attend(new) for new in (1, 40)]))
    assert len(copied) == 4
    attend(1)  # with gradients as before
    assert len(copied) == 6
