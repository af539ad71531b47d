"""The flight recorder: its numbers are the trainer's, its page is whole and small."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from grpo_course.ground import paths
from tools.measure import flight
from tools.report import draw_flight, tables

ROWS = tables.read(flight.FILE)
STEPS = [(row["experiment"], step) for row in ROWS for step in row["steps"]]


def train(folder: Path) -> dict:
    """Two steps of GRPO: what was recorded, and what the trainer's loss worked with."""
    from grpo_course.ground.session import quiet

    with quiet():
        import unsloth  # noqa: F401
        from trl import GRPOConfig, GRPOTrainer
    import torch
    from datasets import Dataset

    from grpo_course import model, rewards
    from grpo_course.ground.profile import PROFILES
    from grpo_course.template import apply_template, as_prompt

    with quiet():
        base, tokenizer = model.load_base_model(PROFILES["cpu"])
        lora = model.add_adapter(base, PROFILES["cpu"])
    rows = [{"prompt": as_prompt(f"What is {i}+{i}?"), "answer": "4"} for i in range(8)]

    def length(completion_ids, **_):
        return [float(len(ids)) for ids in completion_ids]

    config = GRPOConfig(
        output_dir=str(folder),
        max_steps=3,  # the recorder ends it after two
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=12,
        reward_weights=[1.0, 0.0, 2.0],
        learning_rate=1e-2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
    )
    trainer = GRPOTrainer(
        model=lora,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=apply_template(tokenizer),
        reward_funcs=[length, rewards.match_format_exactly, rewards.check_numbers],
    )
    used, kept = [], []
    compute, measure = trainer._compute_loss, trainer._get_per_token_logps_and_entropies

    def measured(*args, **options):
        used.append(measure(*args, **options))
        return used[-1]

    def computed(model, inputs):
        loss = compute(model, inputs)
        ids, mask = inputs["completion_ids"], inputs["completion_mask"].bool()
        logps = used[-1][0].detach()
        kept.append(
            [
                [
                    [tokenizer.decode([t]) for t in ids[i][mask[i]].tolist()],
                    logps[i][mask[i]].tolist(),
                    inputs["advantages"][i].item(),
                ]
                for i in torch.arange(len(ids))
            ]
        )
        return loss

    trainer._get_per_token_logps_and_entropies = measured
    trainer._compute_loss = computed
    recorded = flight.record(trainer, steps=(1, 2))
    trainer.train()
    return {"recorded": recorded, "used": kept}


def test_a_record_has_the_numbers_that_the_loss_works_with(tmp_path):
    result = subprocess.run(
        [sys.executable, __file__, tmp_path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    found = json.loads(re.search(r"^\{.recorded.*", result.stdout, re.MULTILINE)[0])
    assert [step["step"] for step in found["recorded"]] == [1, 2]
    for step, used in zip(found["recorded"], found["used"], strict=True):
        assert step["parts"] == ["length", "check_numbers"] and step["groups"] == 2
        assert len(step["completions"]) == 4
        for c in step["completions"]:
            pieces = c["tokens"].split(flight.BETWEEN)
            assert c["rewards"][0] == len(pieces)
            same = [row for row in used if row[0] == pieces]
            assert any(
                np.allclose(logps, c["logps"], atol=0.006)
                and advantage == pytest.approx(c["advantage"], abs=6e-4)
                for _, logps, advantage in same
            )


# --- The committed file ---------------------------------------------------------------


def test_the_file_is_small_and_has_all_runs_and_steps():
    assert (tables.RESULTS / flight.FILE).stat().st_size < 250_000
    assert tuple(row["experiment"] for row in ROWS) == flight.RUNS
    for row in ROWS:
        wanted = flight.SHORT.get(row["experiment"], flight.STEPS)
        assert tuple(step["step"] for step in row["steps"]) == wanted


def test_the_healthy_run_is_that_of_the_curves():
    curve = {r["step"]: r for r in tables.read("curves.csv") if is_the_course(r)}
    for name, step in STEPS:
        if name == "course":
            logged = curve[step["step"]]
            assert step["reward"] == pytest.approx(logged["reward"], abs=1e-3)
            assert step["equal"] / step["groups"] == logged["zero_std"]


def is_the_course(row: dict) -> bool:
    return (row["experiment"], row["seed"]) == ("course", 3407)


@pytest.mark.parametrize("step", [s for _, s in STEPS], ids=lambda s: s["step"])
def test_advantages_follow_from_the_rewards(step):
    completions = step["completions"]
    sums = np.array([sum(c["rewards"]) for c in completions])
    wanted = (sums - sums.mean()) / (sums.std(ddof=1) + 1e-4)
    assert [c["advantage"] for c in completions] == pytest.approx(wanted, abs=6e-4)
    for c in completions:
        assert len(c["rewards"]) == len(step["parts"])
        assert len(c["logps"]) == len(c["tokens"].split(flight.BETWEEN))
        assert max(c["logps"]) <= 0


def test_without_a_warm_up_the_policy_stays_the_base_model():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from grpo_course.template import apply_template, as_prompt

    place = paths.REPO / "models" / "tiny-qwen3"
    tokenizer = apply_template(AutoTokenizer.from_pretrained(place))
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    ids = {tokenizer.decode([token]): token for token in range(len(tokenizer))}
    compared = 0
    for step in (step for name, step in STEPS if name == "sick-cold"):
        prompt = tokenizer.apply_chat_template(
            as_prompt(step["prompt"]), tokenize=False, add_generation_prompt=True
        )
        start = tokenizer(prompt, add_special_tokens=False).input_ids
        for c in step["completions"]:
            if "\ufffd" in c["tokens"]:  # half a letter: which half is not known
                continue
            written = [ids[piece] for piece in c["tokens"].split(flight.BETWEEN)]
            with torch.no_grad():
                logits = model(torch.tensor([start + written])).logits[0]
            logps = logits[len(start) - 1 : -1].log_softmax(-1)
            found = logps.gather(1, torch.tensor(written)[:, None])[:, 0]
            assert c["logps"] == pytest.approx(found.tolist(), abs=0.01)
            compared += len(written)
    assert compared > 200


# --- The page -------------------------------------------------------------------------


def test_the_page_is_the_file_s_and_needs_no_network():
    page = draw_flight.PAGE.read_text()
    assert page == draw_flight.page(ROWS, draw_flight.FORM.read_text())
    assert not re.search(
        r"https?:|//\w+\.|@import|url\(|<link|<img|\ssrc=|fetch\(", page
    )
    assert len(page) < 200_000  # it is in a notebook too


def test_the_page_has_every_run_and_hides_which_is_which():
    page = draw_flight.PAGE.read_text()
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    runs, recorded = json.loads(data), {r["experiment"]: r["steps"] for r in ROWS}
    shown = [run["steps"] for run in runs]
    slots = re.findall("{{([a-z-]+)}}", draw_flight.FORM.read_text())
    assert shown == [recorded[name] for name in slots]
    assert {*slots} == {*flight.RUNS}
    assert all(run["diagnosis"] for run in runs)
    assert not any(name in page for name in flight.RUNS if name != "course")


if __name__ == "__main__":
    print("\n" + json.dumps(train(Path(sys.argv[1]))))
