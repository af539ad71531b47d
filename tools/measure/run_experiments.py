"""The measured runs behind the README and notebooks 04 and 05: `make experiments`.

    python -m tools.measure.run_experiments RUN             what is left of random-2
    python -m tools.measure.run_experiments --list [NAME ...]       what is not done
    python -m tools.measure.run_experiments                 write the tables in results/

Each run executes the real notebooks with other settings, in a COURSE_HOME of its own
(COURSE_HOME/seeds/3407, .../3407-random, ...). Most begin with the warm-up that the
course made with the same seed; where it is not there, the course is run first. A
stopped run goes on where it was.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from grpo_course.gauges import evaluation
from grpo_course.ground import session, stages
from grpo_course.ground.profile import load_profile
from tools import write_whole
from tools.measure import outcomes
from tools.measure.experiments import (
    EXPERIMENTS,
    PASS_PROBLEMS,
    PASS_SAMPLES,
    STAGE_OF,
    Run,
    all_runs,
)
from tools.report import runs
from tools.run import nbtools, run_course
from tools.tiny import rows as tiny_rows


def execute(run: Run) -> None:
    """Do what is left of a run, in this process. Exits with a message if it fails."""
    if not run.ready():
        execute(run.course)
    os.environ |= run.environment
    run.home.mkdir(parents=True, exist_ok=True)
    if run.experiment == "pass-at-k":
        return count_right_answers(run)
    if run.experiment == "sft-more":
        prepare_more_sft(run)
    elif run.plan.start:
        runs.copy_stages(run.course.home, run.home, run.plan.start)
    with run_course.guarded(run.home) as notebook:
        if run.finished():  # by another process that had begun it
            return
        for number in run.plan.notebooks:
            if STAGE_OF[number] == run.plan.makes or not is_there(STAGE_OF[number]):
                (path,) = nbtools.FOLDER.glob(f"{number}_*.ipynb")
                notebook(path)


def is_there(stage: str) -> bool:
    """Does this COURSE_HOME hold a stage, whole and with the present settings?"""
    try:
        return bool(stages.open_stage(stage, load_profile()))
    except stages.StageError:
        return False


def prepare_more_sft(run: Run) -> None:
    """Let notebook 03 begin where it ended: with the warmed-up adapter, on other rows.

    The adapter takes the place of the fresh one in the stage `template`, with its
    evaluation, and further rows of the embedded data go to a file.
    """
    write_further_rows(run.home / "further.jsonl", run.seed, count=2000)
    runs.copy_stages(run.course.home, run.home, "base")
    warm = {stage.name: stage for stage in stages.every_stage(run.course.home)}["sft"]
    profile = load_profile(run.environment)
    base = stages.open_stage("base", profile)
    if not stages.finished("template", profile, base):
        with stages.write_stage("template", profile, base) as draft:
            for name in warm.manifest["files"]:
                shutil.copy(warm.path / name, draft.path / name)
    template = stages.finished("template", profile, base)
    stages.write_metrics(template, warm.metrics)


def write_further_rows(path: Path, seed: int, count: int) -> None:
    """Worked solutions as in the warm-up of this seed, with none of its problems."""
    seen = {row["problem"] for row in tiny_rows.sft_rows(seed)}
    further, other = {}, seed
    while len(further) < count:
        other += 10_000
        for row in tiny_rows.sft_rows(other):
            if row["problem"] not in seen:
                further.setdefault(row["problem"], row)
    lines = [json.dumps(row) + "\n" for row in list(further.values())[:count]]
    write_whole(path, "".join(lines))


def count_right_answers(run: Run) -> None:
    """Sample answers to problems, before and after GRPO: see `run.counts`."""
    os.environ["COURSE_HOME"] = str(run.course.home)
    session.prepare()
    import unsloth  # noqa: F401  (first: it patches the libraries below)
    from transformers import AutoTokenizer

    from grpo_course import model as lora
    from grpo_course.problems import held_out_problems

    profile = load_profile()
    problems = held_out_problems(profile)[:PASS_PROBLEMS]
    asked = [problem for problem in problems for _ in range(PASS_SAMPLES)]
    model, _ = lora.load_base_model(profile)
    model = lora.add_adapter(model, profile)
    found = {}
    for name in ("sft", "grpo"):
        stage = stages.open_stage(name, profile)
        lora.load_adapter(model, stage.path)
        tokenizer = AutoTokenizer.from_pretrained(stage.path)
        marked = evaluation.evaluate(
            model, tokenizer, asked, profile, sampled=True, adapter=str(stage.path)
        )
        groups = range(0, len(asked), PASS_SAMPLES)
        found[name] = [sum(marked.correct[i : i + PASS_SAMPLES]) for i in groups]
    write_whole(run.counts, json.dumps(found))


def chosen_runs(names: list[str]) -> list[Run]:
    """The runs that names stand for. Exits with one sentence for an unknown name."""
    known = {run.name: run for run in all_runs()}
    for name in names:
        if name not in EXPERIMENTS and name not in known:
            sys.exit(f"{name!r} is no experiment: --list shows all of them.")
    wanted = set(names) or set(known)
    return [r for r in known.values() if wanted & {r.name, r.experiment}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="experiments or single runs")
    parser.add_argument("--list", action="store_true", help="show what is not done")
    given = parser.parse_args()
    chosen = chosen_runs(given.names)
    if given.list:
        print(*[run.name for run in chosen if not run.finished()], sep="\n")
    elif not given.names:
        outcomes.collect()
    elif len(chosen) > 1:
        sys.exit("One run at a time, such as course-1; `make experiments` does all.")
    else:
        print(f"{chosen[0].name}: {chosen[0].plan.about}", flush=True)
        execute(chosen[0])


if __name__ == "__main__":
    main()
