"""Beyond one GPU, on a CPU: processes that train together, one that dies, and limits.

Two real processes, started by torchrun, train the tiny model from an untrained stage
`sft`. One of them is killed; the same command goes on; notebooks 05 and 06 take what
came out of it for their own.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model

from grpo_course import rewards
from grpo_course.ground import checkpoints, files, stages
from grpo_course.ground.profile import PROFILES, ProfileError, load_profile
from grpo_course.problems import held_out_problems
from grpo_course.scale_out import exact_unmerge, share_of
from recipes import compare, server
from recipes.verl import collect, prepare
from recipes.verl import reward as verl_reward
from tools import ROOT
from tools.run import run_course, runner

SETTINGS = {
    "COURSE_PROFILE": "cpu",
    "COURSE_REWARD": "random",  # an untrained model's answers have no others
    "COURSE_EVAL_PROBLEMS": "8",
    "COURSE_GRPO_STEPS": "6",
    "COURSE_GRPO_BATCH_SIZE": "8",
    "COURSE_NUM_GENERATIONS": "4",
    "COURSE_MAX_COMPLETION_LENGTH": "24",
    "COURSE_SAVE_STEPS": "1",
    "COURSE_TRAIN_ANYWAY": "true",
    "COURSE_TRACK": "disabled",
    "COURSE_EXPORTS": "lora",
}
CPU = PROFILES["cpu"]


def environment(home: Path) -> dict:
    own = SETTINGS | {"OMP_NUM_THREADS": "1"}
    return runner.kernel_environment(home, offline=True) | own


def start(home: Path, recipe: Path | str = "recipes/ddp.toml") -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "recipes.grpo", str(recipe)]
    how = {"cwd": ROOT, "env": environment(home), "text": True}
    return subprocess.Popen(command, **how, stdout=-1, stderr=subprocess.STDOUT)


def the_other_rank(process: subprocess.Popen) -> psutil.Process:
    """The process of rank 1."""
    found = psutil.Process(process.pid).children(recursive=True)
    (one,) = [
        p for p in found if p.environ().get("RANK") == "1" and "-u" in p.cmdline()
    ]
    return one


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A home, what was said when one process was killed, and by the run after it."""
    home = tmp_path_factory.mktemp("scale-out")
    command = [sys.executable, "-m", "recipes.untrained"]
    subprocess.run(command, cwd=ROOT, env=environment(home), check=True)
    process = start(home)
    while not list(home.glob(f"checkpoints/*/checkpoint-2/{checkpoints.SEAL}")):
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.1)
    the_other_rank(process).kill()
    killed = process.communicate()[0]
    assert process.returncode
    (folder,) = home.glob("checkpoints/*")
    left = checkpoints.latest(folder)
    process = start(home)
    went_on = process.communicate()[0]
    assert process.returncode == 0, went_on[-4000:]
    return home, killed, left


def grpo_of(home: Path) -> stages.Stage:
    return [stage for stage in stages.every_stage(home) if stage.name == "grpo"][-1]


def test_a_process_whose_sibling_was_killed_says_how_to_go_on(runs):
    _, said, left = runs
    assert left is not None
    (sentence,) = re.findall("^Process 0 of 2 (.+)$", said, re.MULTILINE)
    assert sentence.endswith(f"goes on from {left.name}.")


def test_two_processes_end_with_the_same_weights_and_other_than_they_began(runs):
    stage = grpo_of(runs[0])
    adapters = stage.metrics["adapters"]
    assert len(adapters) == stage.metrics["processes"] == 2
    assert len(set(adapters)) == 1
    sft = [s for s in stages.every_stage(runs[0]) if s.name == "sft"][-1]
    name = "adapter_model.safetensors"
    assert (sft.path / name).read_bytes() != (stage.path / name).read_bytes()


def test_no_step_is_missing_after_the_kill(runs):
    steps = [entry["step"] for entry in grpo_of(runs[0]).metrics["log_history"]]
    assert steps == list(range(1, int(SETTINGS["COURSE_GRPO_STEPS"]) + 1))


def test_notebooks_05_and_06_take_the_stage_for_their_own(runs, preloaded):
    home, before = runs[0], grpo_of(runs[0])
    environ = environment(home) | {"MPLBACKEND": "Agg"}
    # 05 compares with what 01 and 03 have measured: here, stand-ins.
    asked = [row["prompt"][-1]["content"] for row in held_out_problems(CPU)][:8]
    for stage in stages.every_stage(home):
        if stage.name in ("base", "template", "sft"):
            found = before.measured | {"native": before.measured["evaluation"]}
            stages.write_metrics(stage, found | {"problems": files.digest(asked)})
    for path in run_course.chosen(["05", "06"]):
        runner.execute(path, home / "executed" / path.name, environ, preloaded)
    after = {stage.name: stage for stage in stages.every_stage(home)}
    assert after["grpo"].digest == before.digest  # nothing was trained again
    assert after["lora"].manifest["parent"] == before.digest


def test_a_run_becomes_a_row_of_what_it_took(runs):
    row = compare.row(grpo_of(runs[0]))
    assert (row["way"], row["processes"], row["completions"]) == ("ddp", 2, 8)
    assert 0 < row["sampling_s"] < row["step_s"]
    assert row["tokens_per_s"] * row["step_s"] == pytest.approx(8 * row["tokens"], 0.01)


@pytest.mark.parametrize("shares, seconds", [([0.7] * 5, 5.0), ([0.1] * 9, None)])
def test_when_a_share_of_right_completions_was_reached(shares, seconds):
    log = [{"rewards/right/mean": share} for share in shares]
    told = {"log_history": log, "seconds": {"step": [1.0] * len(log)}}
    assert compare.reached(told) == seconds


@pytest.mark.slow
def test_a_model_in_parts_learns_what_whole_ones_learn(runs, tmp_path):
    whole = tmp_path / "whole.toml"
    whole.write_text('engine = "trl"\nstart_s = 900\nstep_s = 900\n[trainer]\n')
    adapters = set()
    for recipe in (whole, ROOT / "recipes" / "fsdp2.toml"):
        home = tmp_path / recipe.stem
        others = shutil.ignore_patterns("grpo-*", "lora-*")
        shutil.copytree(runs[0] / "stages", home / "stages", ignore=others)
        process = start(home, recipe)
        said = process.communicate()[0]
        assert process.returncode == 0, said[-4000:]
        adapters |= {*grpo_of(home).metrics["adapters"]}
    assert len(adapters) == 1  # to the last bit


# --- A step's completions -------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_step_has_as_many_completions_on_any_number_of_processes(profile, processes):
    share = share_of(profile, processes)
    micro, times = (share[n] for n in list(share)[:2])
    assert micro * times * processes == profile.grpo_generation_batch
    assert 1 <= micro <= profile.grpo_batch_size


@pytest.mark.parametrize("processes", [3, 64])
def test_a_step_that_cannot_be_shared_says_what_to_change(processes):
    with pytest.raises(ProfileError, match="COURSE_GRPO_BATCH_SIZE"):
        share_of(CPU, processes)


# --- Merging and unmerging ------------------------------------------------------------


def small():
    """A bfloat16 model of one layer, with LoRA, and that layer's base weight."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False)).bfloat16()
    config = LoraConfig(r=4, target_modules=["0"], init_lora_weights=False)
    model = get_peft_model(net, config)
    return model, model.base_model.model[0].base_layer.weight


def drift(prepare) -> float:
    """How far a bfloat16 base is from where it was after ten merges."""
    model, weight = small()
    before = weight.detach().clone()
    model = prepare(model)
    for _ in range(10):
        model.merge_adapter()
        merged = weight.detach().clone()
        model.unmerge_adapter()
    assert not torch.equal(merged, before)  # it did merge
    return (weight.float() - before.float()).norm().item()


def test_subtracting_the_adapter_wears_the_base_out_and_putting_back_does_not():
    assert drift(lambda model: model) > 0
    assert drift(exact_unmerge) == 0


def test_who_reads_merged_weights_after_the_unmerging_still_reads_merged_ones():
    """As vLLM's producer does: it copies a chunk when TRL's generator has ended."""
    model, weight = small()
    exact_unmerge(model)
    before, address = weight.detach().clone(), weight.data_ptr()
    model.merge_adapter()
    read, merged = weight.data, weight.detach().clone()
    model.unmerge_adapter()
    assert torch.equal(read, merged) and not torch.equal(read, before)
    assert torch.equal(weight, before) and weight.data_ptr() == address


# --- Limits ---------------------------------------------------------------------------


def python(text: str, *more: str, env=None) -> subprocess.Popen:
    command = [sys.executable, "-c", text, *more]
    how = {"cwd": ROOT, "env": os.environ | (env or {}), "text": True}
    return subprocess.Popen(command, **how, stdout=-1, stderr=subprocess.STDOUT)


GUARDED = """
import time
from recipes.guard import Guard
guard = Guard("Process 0 of 2", lambda: "The same command begins again.")
guard.allow({seconds}, "step 3")
print("ready", flush=True)
time.sleep(600)
"""


def test_a_step_without_end_is_ended_with_a_sentence():
    process = python(GUARDED.format(seconds=0.1))
    said = process.communicate()[0]
    assert process.returncode == 1
    assert "gave up: step 3 took more than 0 s. The same command begins" in said


def test_a_process_that_is_asked_to_stop_says_so():
    process = python(GUARDED.format(seconds=600))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert "Process 0 of 2 was asked to stop" in process.communicate()[0]
    assert process.returncode == 1


SERVER = {"gpus": "", "port": 0, "share": 0.5, "wait_s": 2, "arguments": []}
SLEEPS = "import time; time.sleep(600)"
ANSWERS = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
port = int(sys.argv[sys.argv.index("--port") + 1])
HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


@pytest.fixture
def imitation(tmp_path, monkeypatch):
    """Put a program in the place of vLLM's."""

    def make(text: str):
        folder = tmp_path / "site" / "vllm" / "entrypoints" / "cli"
        folder.mkdir(parents=True)
        (folder / "main.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))

    return make


@pytest.mark.parametrize(
    "text, problem", [("raise SystemExit(3)", "ended .3."), (SLEEPS, "within 2 s")]
)
def test_a_server_that_does_not_start_names_its_log(imitation, tmp_path, text, problem):
    imitation(text)
    with pytest.raises(server.ServerError, match=f"{problem}.*server.log"):
        server.start(SERVER, CPU, tmp_path / "server.log")
    assert not [p for p in psutil.Process().children() if "serve" in p.cmdline()]


STARTS = f"""
import sys, time
from pathlib import Path
from recipes import server
from grpo_course.ground.profile import PROFILES
import socket
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
options = {SERVER} | {{"port": port, "wait_s": 60}}
print(server.start(options, PROFILES["cpu"], Path(sys.argv[1])).pid, flush=True)
time.sleep(600)
"""


def test_a_server_ends_with_the_trainer_however_that_ends(imitation, tmp_path):
    imitation(ANSWERS)
    process = python(STARTS, str(tmp_path / "log"))
    pid = int(process.stdout.readline())
    assert psutil.pid_exists(pid)
    process.kill()
    process.communicate()
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], 30)
    assert not psutil.pid_exists(pid)


# --- verl: what goes there, and what comes back ---------------------------------------


def test_verl_gets_the_course_s_rewards():
    answers = {"1=1.<end_working_out><SOLUTION>42</SOLUTION>": 1.0, "42": 0.0}
    for text, right in answers.items():
        found = verl_reward.compute_score("course", text, "42")
        asked = {"prompts": [None], "completions": [text], "answer": ["42"]}
        assert found["score"] == sum(f(**asked)[0] for f in rewards.REWARDS)
        assert found["right"] == right


def test_verl_gets_the_profile_and_refuses_what_it_does_not_know(tmp_path):
    told = prepare.arguments(PROFILES["a100"], tmp_path, tmp_path, gpus=2, nodes=1)
    a100 = PROFILES["a100"]
    assert told["data.train_batch_size"] == a100.grpo_prompts
    assert told["actor_rollout_ref.actor.optim.lr"] == a100.grpo_learning_rate
    with pytest.raises(ProfileError, match="COURSE_MIN_P=0"):
        prepare.arguments(CPU, tmp_path, tmp_path, gpus=2, nodes=1)


def test_problems_go_to_verl_and_an_adapter_comes_back(runs, tmp_path, monkeypatch):
    source, home = runs[0], tmp_path / "home"
    others = shutil.ignore_patterns("grpo-*", "lora-*")
    shutil.copytree(source / "stages", home / "stages", ignore=others)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COURSE_HOME", str(home))
    monkeypatch.setenv("COURSE_MIN_P", "0")
    monkeypatch.setattr(sys, "argv", ["prepare", str(tmp_path / "out")])
    prepare.main()
    row = pd.read_parquet(tmp_path / "out" / "train.parquet").iloc[0]
    assert row["prompt"][-1]["role"] == "user" and row["data_source"] == "random"
    merged = tmp_path / "out" / "merged" / "lora_adapter"
    merged.mkdir(parents=True)
    shutil.copy(grpo_of(source).path / "adapter_model.safetensors", merged)
    collect.main(tmp_path / "out")
    made, profile = grpo_of(home), load_profile()
    assert made.metrics["engine"] == "verl"
    parent = stages.open_stage("sft", profile)
    data = made.manifest["facts"]["data"]
    assert stages.finished("grpo", profile, parent, data=data).digest == made.digest


def test_the_profile_of_the_tests_is_the_cpu_s(monkeypatch):
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    assert share_of(load_profile(), 2)["per_device_train_batch_size"] == 4
