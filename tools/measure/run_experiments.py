"""The measured runs behind the README and notebooks 04 and 05: `make experiments`.

    python -m tools.measure.run_experiments [...]

    (nothing)              all of them, one after the other
    --jobs 16              up to 16 at a time, one thread each
    course random-2        these: an experiment, or one seed of it
    --list                 what there is, and what has been done
    --collect-only         only write the tables in results/

Each run executes the real notebooks with other settings, in a COURSE_HOME of its own
(COURSE_HOME/seeds/3407, .../3407-random, ...). Most begin with the warm-up that the
course made with the same seed. A stopped run goes on where it was; a finished one is
left alone.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
from tools.run import nbtools, run_course
from tools.tiny import rows as tiny_rows

# --- What happens in a run ------------------------------------------------------------


def execute(run: Run) -> None:
    """Do what is left of a run, in this process. Exits with a message if it fails."""
    os.environ |= run.environment
    run.home.mkdir(parents=True, exist_ok=True)
    if run.experiment == "pass-at-k":
        return count_right_answers(run)
    if run.experiment == "sft-more":
        prepare_more_sft(run)
    elif run.plan.start:
        branch(run, run.plan.start)
    with run_course.guarded(run.home) as execute:
        for number in run.plan.notebooks:
            if STAGE_OF[number] == run.plan.makes or not is_there(STAGE_OF[number]):
                (path,) = nbtools.FOLDER.glob(f"{number}_*.ipynb")
                execute(path)


def is_there(stage: str) -> bool:
    """Does this COURSE_HOME hold a stage, whole and with the present settings?"""
    try:
        return bool(stages.open_stage(stage, load_profile()))
    except stages.StageError:
        return False


def branch(run: Run, until: str) -> None:
    """Give a run the course's stages up to one, each of them whole or absent."""
    wanted = stages.ORDER[: stages.ORDER.index(until) + 1]
    for stage in stages.every_stage(run.course.home):
        place = run.home / "stages" / stage.path.name
        if stage.name in wanted and not place.exists():
            copy = place.with_name(f".{stage.name}.copy")
            shutil.rmtree(copy, ignore_errors=True)  # what a killed run left
            shutil.copytree(stage.path, copy)
            if stage.measured is not None:
                stages.write_metrics(replace(stage, path=place), stage.measured)
            copy.rename(place)


def prepare_more_sft(run: Run) -> None:
    """Let notebook 03 begin where it ended: with the warmed-up adapter, on other rows.

    The adapter takes the place of the fresh one in the stage `template`, with its
    evaluation, and further rows of the embedded data go to a file.
    """
    write_further_rows(run.home / "further.jsonl", run.seed, count=2000)
    branch(run, "base")
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


# --- Many runs ------------------------------------------------------------------------


def work(todo: list[Run], jobs: int) -> list[str]:
    """Do the runs, up to `jobs` at a time; the names of those that did not end well.

    The courses come first, because the others begin with their stages.
    """
    failed, running = [], []
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for first in (True, False):
                part = [run for run in todo if (run.plan.start is None) == first]
                good = pool.map(lambda run: do(run, jobs, running), part)
                failed += [r.name for r, g in zip(part, good, strict=True) if not g]
        except BaseException:  # stopped: so are all
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()
            raise
    return failed


def do(run: Run, jobs: int, running: list[subprocess.Popen]) -> bool:
    """Start this program again for one run, which writes to run.log in its home."""
    if not run.ready():
        print(f"{run.name} needs the course of seed {run.seed} first.", flush=True)
        return False
    started, log = time.monotonic(), run.home / "run.log"
    run.home.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--one", run.name],
            env=os.environ | ({"OMP_NUM_THREADS": "1"} if jobs > 1 else {}),
            stdout=file,
            stderr=file,
        )
    running.append(process)
    good = process.wait() == 0 or run.finished()
    minutes = (time.monotonic() - started) / 60
    how = "done" if good else f"FAILED: see {log}"
    print(f"{run.name:<20} {minutes:5.1f} min  {how}", flush=True)
    return good


# --- The command ----------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="experiments or single runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--list", action="store_true", help="show all, run none")
    parser.add_argument("--collect-only", action="store_true", help="only the tables")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    todo = chosen_runs(given.names)
    if given.one:
        return execute(todo[0])
    if given.list:
        for run in todo:
            state = "done" if run.finished() else ""
            print(f"{run.name:<20} {state:<5} {run.plan.about}")
        return
    failed = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if not given.collect_only:
            failed = work([run for run in todo if not run.finished()], given.jobs)
    finally:
        outcomes.collect()
    if failed:
        sys.exit(f"Not done: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
