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
left alone. `collect` says what the tables hold.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from grpo_course.gauges import evaluation
from grpo_course.ground import data, profiles, session, stages
from tools.report import results
from tools.run import nbtools, run_course

HOME = stages.home() / "seeds"
STAGE_OF = {name[:2]: stage for stage, name in stages.NOTEBOOKS.items()}
SEEDS = (3407, 1, 2)
PASS_PROBLEMS, PASS_SAMPLES = 100, 16  # of pass@k
CPU = profiles.PROFILES["cpu"]


@dataclass(frozen=True)
class Run:
    """One experiment with one seed."""

    experiment: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.experiment}-{self.seed}"

    @property
    def plan(self) -> "Experiment":
        return EXPERIMENTS[self.experiment]

    @property
    def course(self) -> "Run":
        """The run of the course with the same seed."""
        return Run("course", self.seed)

    @property
    def home(self) -> Path:
        """Its COURSE_HOME."""
        own = "" if self.experiment == "course" else f"-{self.experiment}"
        return HOME / f"{self.seed}{own}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its notebooks, with its own settings."""
        settings = {n: v.format(home=self.home) for n, v in self.plan.settings.items()}
        own = {"COURSE_HOME": str(self.home), "COURSE_SEED": str(self.seed)}
        return os.environ | {"COURSE_REWARD": "course"} | settings | own

    def manifest(self, stage: str) -> dict | None:
        """What one of its stages says of itself; None if it is not there."""
        path = self.home / "stages" / stage / stages.MANIFEST
        return json.loads(path.read_text()) if path.is_file() else None

    def ready(self) -> bool:
        """Is the stage that it begins with there?"""
        start = self.plan.start
        return start is None or self.course.manifest(start) is not None

    def finished(self) -> bool:
        """Has it been done, with these very settings?"""
        if not self.plan.notebooks:
            return counts_of(self).is_file()
        manifest = self.manifest(self.plan.makes)
        if manifest is None:
            return False
        profile = profiles.load_profile(self.environment)
        same = manifest["settings"] == profile.settings_for(self.plan.makes)
        asked = evaluation.conditions(profile)
        return same and manifest["facts"].get("evaluation") == asked


@dataclass(frozen=True)
class Experiment:
    """What its runs change (COURSE_* variables), where they begin, what they do.

    start: the stage of the course that they begin with; None: from nothing.
    prepare: what is to be done before the first notebook, if anything.
    """

    about: str
    settings: dict[str, str] = field(default_factory=dict)
    start: str | None = "sft"
    prepare: Callable[[Run], None] | None = None
    notebooks: tuple[str, ...] = ("05",)
    seeds: tuple[int, ...] = SEEDS

    @property
    def makes(self) -> str | None:
        """Its last stage."""
        return STAGE_OF[self.notebooks[-1]] if self.notebooks else None


# --- What happens in a run ------------------------------------------------------------


def execute(run: Run) -> None:
    """Do what is left of a run, in this process. Exits with a message if it fails."""
    os.environ |= run.environment
    run.home.mkdir(parents=True, exist_ok=True)
    if run.plan.start:
        branch(run)
    if run.plan.prepare:
        run.plan.prepare(run)
    with run_course.guarded(run.home) as environment:
        for number in run.plan.notebooks:
            if STAGE_OF[number] == run.plan.makes or not is_there(STAGE_OF[number]):
                (path,) = nbtools.FOLDER.glob(f"{number}_*.ipynb")
                nbtools.execute(path, run.home / "executed" / path.name, environment)


def is_there(stage: str) -> bool:
    """Does this COURSE_HOME hold a stage, whole and with the present settings?"""
    try:
        return bool(stages.open_stage(stage, profiles.load_profile()))
    except stages.StageError:
        return False


def branch(run: Run) -> None:
    """Give a run the course's stages up to its start, each of them whole or absent."""
    for stage in stages.ORDER[: stages.ORDER.index(run.plan.start) + 1]:
        place = run.home / "stages" / stage
        if not place.exists():
            copy = place.with_name(f".{stage}.copy")
            shutil.rmtree(copy, ignore_errors=True)  # what a killed run left
            shutil.copytree(run.course.home / "stages" / stage, copy)
            copy.rename(place)


def prepare_more_sft(run: Run) -> None:
    """Let notebook 03 begin where it ended: with the warmed-up adapter, on other rows.

    The adapter takes the place of the fresh one in the stage `template`, with its
    evaluation, and further rows of the embedded data go to a file.
    """
    write_further_rows(run.home / "further.jsonl", run.seed, count=2000)
    profile = profiles.load_profile(run.environment)
    warm = run.course.manifest("sft")
    template = run.manifest("template")
    if template and template["metrics"] == warm["metrics"]:
        return
    settings = profile.settings_for("template")
    base = stages.open_stage("base", profile)
    with stages.write_stage("template", parent=base, settings=settings) as draft:
        shutil.copytree(
            run.course.home / "stages" / "sft",
            draft.path,
            ignore=shutil.ignore_patterns(stages.MANIFEST),
            dirs_exist_ok=True,
        )
        draft.metrics.update(warm["metrics"])


def write_further_rows(path: Path, seed: int, count: int) -> None:
    """Worked solutions as in the warm-up of this seed, with none of its problems."""
    seen = {row["problem"] for row in data.load_rows("embedded:sft", "sft", seed)}
    rows, other = {}, seed
    while len(rows) < count:
        other += 10_000
        for row in data.load_rows("embedded:sft", "sft", other):
            if row["problem"] not in seen:
                rows.setdefault(row["problem"], row)
    partial = path.with_suffix(".partial")
    lines = [json.dumps(row) for row in list(rows.values())[:count]]
    partial.write_text("\n".join(lines) + "\n")
    partial.replace(path)


def counts_of(run: Run) -> Path:
    return run.home / "right.json"


def count_right_answers(run: Run) -> None:
    """Sample 16 answers to each of 100 held-out problems, before and after GRPO.

    Writes how many were right: {"sft": [one number a problem], "grpo": [...]}.
    """
    if run.finished():
        return
    os.environ["COURSE_HOME"] = str(run.course.home)
    session.prepare()
    import unsloth  # noqa: F401  (first: it patches the libraries below)
    from transformers import AutoTokenizer

    from grpo_course import grpo_data
    from grpo_course import model as lora

    profile = profiles.load_profile()
    problems = grpo_data.held_out_problems(profile)[:PASS_PROBLEMS]
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
    partial = counts_of(run).with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.replace(counts_of(run))


# --- The table. Its order is the order in which runs are started. ---------------------


def changed(about: str, seeds: tuple[int, ...] = SEEDS, **settings) -> Experiment:
    """GRPO from the course's warm-up, with other values of some profile fields."""
    variables = {f"COURSE_{name.upper()}": str(v) for name, v in settings.items()}
    return Experiment(about, variables, seeds=seeds)


EXPERIMENTS = {
    "course": Experiment(
        "the course as it is", start=None, notebooks=("01", "02", "03", "05")
    ),
    # Controls: rewards that know nothing of the answer, and more of the warm-up
    "format": changed("pays for the format only", reward="format"),
    "random": changed("throws a coin", reward="random"),
    "sft-more": Experiment(
        "SFT goes on instead of GRPO, with as many steps and examples",
        {
            "COURSE_SFT_DATA": "{home}/further.jsonl",
            "COURSE_SFT_EXAMPLES": str(CPU.grpo_steps * CPU.grpo_generation_batch),
            "COURSE_SFT_EPOCHS": "1",
            "COURSE_SFT_BATCH_SIZE": str(CPU.grpo_generation_batch),
        },
        prepare=prepare_more_sft,
        notebooks=("03",),
    ),
    # A reward that can be cheated, and the same one mended (notebook 04)
    "flawed": changed("a reward that can be cheated", reward="flawed"),
    "fixed": changed("the same reward, mended", reward="fixed"),
    # Ablations, one setting at a time; the completions per step stay the same
    "group-4": changed("groups of 4", num_generations=4),
    "group-16": changed("groups of 16", num_generations=16),
    "rate-third": changed(
        "a third of the rate", grpo_learning_rate=CPU.grpo_learning_rate / 3
    ),
    "rate-triple": changed(
        "three times the rate", grpo_learning_rate=CPU.grpo_learning_rate * 3
    ),
    "loss-grpo": changed("each completion counts the same", loss_type="grpo"),
    "loss-dr_grpo": changed(
        "no division by length or std", loss_type="dr_grpo", scale_rewards="none"
    ),
    # Sick on purpose; one seed is enough to see the signs
    "sick-rate": changed(
        "ten times the rate", (3407,), grpo_learning_rate=CPU.grpo_learning_rate * 10
    ),
    "sick-limit": changed(
        "completions cut after 32 tokens", (3407,), max_completion_length=32
    ),
    "sick-cold": Experiment(
        "no warm-up: SFT at a rate that changes nothing",
        {
            "COURSE_SFT_LEARNING_RATE": "1e-12",
            "COURSE_SFT_EXAMPLES": "8",
            "COURSE_SFT_EPOCHS": "1",
            "COURSE_SFT_WARMUP_STEPS": "0",  # else the one step has rate 0
        },
        start="template",
        notebooks=("03", "05"),
        seeds=(3407,),
    ),
    # How often is one of k samples right?
    "pass-at-k": Experiment(
        f"{PASS_SAMPLES} samples a problem, before and after GRPO",
        start="grpo",
        prepare=count_right_answers,
        notebooks=(),
    ),
}


def all_runs() -> Iterator[Run]:
    for experiment, plan in EXPERIMENTS.items():
        for seed in plan.seeds:
            yield Run(experiment, seed)


def chosen_runs(names: list[str]) -> list[Run]:
    """The runs that names stand for. Exits with one sentence for an unknown name."""
    known = {run.name: run for run in all_runs()}
    for name in names:
        if name not in EXPERIMENTS and name not in known:
            sys.exit(f"{name!r} is no experiment: --list shows all of them.")
    return [
        run
        for run in known.values()
        if not names or run.name in names or run.experiment in names
    ]


# --- Many runs ------------------------------------------------------------------------


def work(runs: list[Run], jobs: int) -> list[str]:
    """Do the runs, up to `jobs` at a time; the names of those that did not end well.

    Each is a process of its own, and writes to run.log in its home. One that begins
    with a stage of another waits for it.
    """
    waiting, running, failed = list(runs), {}, []
    try:
        while waiting or running:
            for process in [p for p in running if p.poll() is not None]:
                run, started = running.pop(process)
                good = process.returncode == 0 or run.finished()
                failed += [] if good else [run.name]
                minutes = (time.monotonic() - started) / 60
                how = "done" if good else f"FAILED: see {run.home / 'run.log'}"
                print(f"{run.name:<20} {minutes:5.1f} min  {how}", flush=True)
            ready = [run for run in waiting if run.ready()]
            for run in ready[: jobs - len(running)]:
                waiting.remove(run)
                running[start(run, jobs)] = run, time.monotonic()
            if waiting and not running:
                for run in waiting:
                    print(f"{run.name} needs the course of seed {run.seed} first.")
                return failed + [run.name for run in waiting]
            time.sleep(0.5)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return failed


def start(run: Run, jobs: int) -> subprocess.Popen:
    """Start this program again for one run."""
    run.home.mkdir(parents=True, exist_ok=True)
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if jobs > 1 else {})
    with (run.home / "run.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--in-this-process", run.name],
            env=environment,
            stdout=log,
            stderr=log,
        )


# --- The tables -----------------------------------------------------------------------


def collect() -> None:
    """Write what the finished runs say to results/; see each function for one table.

    Rows of runs that are not in this COURSE_HOME stay as they are.
    """
    results.RESULTS.parent.mkdir(exist_ok=True)
    run, seed = ("experiment", "seed"), ("seed",)
    for path, rows, key in (
        (results.RESULTS, stage_rows(), seed),
        (results.GAINS, outcome_rows(), run),
        (results.PASS_AT_K, pass_rows(), seed),
        (results.SAMPLES, sample_rows(), run),
    ):
        results.save(path, in_order(results.merged(results.read(path), rows, key)))
    curves = results.merged(results.read_csv(results.CURVES), curve_rows(), run)
    results.save_csv(results.CURVES, in_order(curves))


def in_order(rows: list[dict]) -> list[dict]:
    """Rows by experiment and seed, as they stand above; equal ones keep their order."""
    experiments, seeds = list(EXPERIMENTS), list(map(str, SEEDS))
    known = [r for r in rows if r.get("experiment", "course") in EXPERIMENTS]
    return sorted(
        known,
        key=lambda row: (
            experiments.index(row.get("experiment", "course")),
            seeds.index(str(row["seed"])),
        ),
    )


def finals() -> Iterator[tuple[Run, dict, dict]]:
    """Each run that is done: it, the metrics it began with, its last manifest."""
    for run in all_runs():
        last = run.manifest(run.plan.makes) if run.plan.makes else None
        first = run if run.plan.makes == "grpo" else run.course
        before = first.manifest("sft")
        if last and before:
            yield run, before["metrics"], last


def stage_rows() -> list[dict]:
    """One row a stage of the course and seed: see results.rows."""
    homes = [Run("course", seed).home for seed in SEEDS]
    return [row for home in homes for row in results.rows(home)]


def outcome_rows() -> list[dict]:
    """One row a run: what changed on the same held-out problems, greedy decoding.

    Keys: experiment, about, seed, n, before and accuracy (after it; both 0 to 1) with
    ci_low and ci_high, p_value (exact McNemar test), sampled (accuracy when sampled as
    in training), format_rate, mean_completion_tokens, truncated_rate, minutes, and what
    it ran on.
    """
    rows = []
    for run, before, last in finals():
        after = last["metrics"]
        old, new = before["correct"], after["correct"]
        greedy = after["evaluation"]["greedy"]
        row = {"experiment": run.experiment, "about": run.plan.about}
        row |= {"seed": run.seed, "n": len(new), "before": sum(old) / len(old)}
        row |= {name: greedy[name] for name in results.MEASURES if name != "n"}
        row |= {"sampled": after["evaluation"]["sampled"]["accuracy"]}
        row |= {"p_value": evaluation.paired_p_value(old, new)}
        row |= {"minutes": after.get("minutes")} | ran_on(last)
        rows.append({name: results.short(value) for name, value in row.items()})
    return rows


def ran_on(manifest: dict) -> dict:
    """Python and torch of a stage, and this machine."""
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.exists() else ())
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.processor() or platform.machine()
    packages = manifest["packages"]
    versions = {key: packages.get(key) for key in ("python", "torch")}
    return versions | {"machine": f"{name}, {os.cpu_count()} threads"}


def curve_rows() -> list[dict]:
    """One row a run and step: what GRPO logged."""
    return [
        {"experiment": run.experiment, "seed": run.seed} | results.logged(entry)
        for run, _, last in finals()
        for entry in last["metrics"]["log_history"]
    ]


def pass_rows() -> list[dict]:
    """One row a seed and stage: of `samples` samples, how many of each problem's were
    right (a list, one number a problem)."""
    rows = []
    for run in all_runs():
        if run.experiment == "pass-at-k" and run.finished():
            for stage, right in json.loads(counts_of(run).read_text()).items():
                row = {"seed": run.seed, "stage": stage, "samples": PASS_SAMPLES}
                rows.append(row | {"right": right})
    return rows


def sample_rows() -> list[dict]:
    """What each run of the first seed answered to a few held-out problems, greedy."""
    return [
        {"experiment": run.experiment, "seed": run.seed, **sample}
        for run, _, last in finals()
        if run.seed == SEEDS[0]
        for sample in last["metrics"]["samples"]
    ]


# --- The command ----------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the measured experiments.")
    parser.add_argument("names", nargs="*", help="experiments or single runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--list", action="store_true", help="show all, run none")
    parser.add_argument("--collect-only", action="store_true", help="only the tables")
    parser.add_argument(
        "--in-this-process", action="store_true", help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    runs = chosen_runs(given.names)
    if given.in_this_process:
        return execute(runs[0])
    if given.list:
        for run in runs:
            state = "done" if run.finished() else ""
            print(f"{run.name:<20} {state:<5} {run.plan.about}")
        return
    failed = []
    if not given.collect_only:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            failed = work([run for run in runs if not run.finished()], given.jobs)
        finally:
            collect()
    collect()
    if failed:
        sys.exit(f"Not done: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
