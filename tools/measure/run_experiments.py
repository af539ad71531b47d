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
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from grpo_course.gauges import evaluation
from grpo_course.ground import session, stages, statistics
from grpo_course.ground.profile import PROFILES, load_profile
from tools import write_whole
from tools.report import runs, tables
from tools.run import nbtools, run_course
from tools.tiny import rows as tiny_rows

HOME = stages.home() / "seeds"
STAGE_OF = {name[:2]: stage for stage, name in stages.NOTEBOOKS.items()}
SEEDS = (3407, 1, 2)
PASS_PROBLEMS, PASS_SAMPLES = 100, 16  # of pass@k
CPU = PROFILES["cpu"]
RUN = ("experiment", "seed")
KEYS = {  # of each table in results/: what tells the rows of a run
    "cpu.json": ("seed",),
    "experiments.json": RUN,
    "curves.csv": RUN,
    "pass-at-k.json": ("seed",),
    "samples.json": RUN,
}


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
        usual = {"COURSE_REWARD": "course"} | self.own_data()
        return os.environ | usual | settings | own

    def own_data(self) -> dict[str, str]:
        """The data of its seed; that of one seed comes with the course."""
        if self.seed == tiny_rows.SEED:
            return {}
        folder = HOME / "rows" / str(self.seed)
        if not folder.is_dir():
            tiny_rows.write_rows(folder, self.seed)
        names = {"COURSE_SFT_DATA": "sft", "COURSE_GRPO_DATA": "grpo"}
        return {name: str(folder / f"{file}.jsonl") for name, file in names.items()}

    @property
    def counts(self) -> Path:
        """How many of PASS_SAMPLES were right: {"sft": [a number a problem], ...}."""
        return self.home / "right.json"

    def manifest(self, stage: str) -> dict:
        """What one of its stages says of itself; {} if it is not there."""
        return runs.manifest(self.home, stage)

    def ready(self) -> bool:
        """Is the stage that it begins with there?"""
        return self.plan.start is None or bool(self.course.manifest(self.plan.start))

    def finished(self) -> bool:
        """Has it been done, with these very settings?"""
        if not self.plan.makes:
            return self.counts.is_file()
        profile, told = (
            load_profile(self.environment),
            self.manifest(self.plan.makes),
        )
        return bool(told) and (
            told["settings"] == profile.settings_for(self.plan.makes)
            and told["metrics"].get("conditions") == evaluation.conditions(profile)
        )


@dataclass(frozen=True)
class Experiment:
    """What its runs change (COURSE_* variables), where they begin, what they do.

    start: the stage of the course that they begin with; None: from nothing.
    prepare: what is to be done before the first notebook, in place of a branch.
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
    if run.plan.prepare:
        run.plan.prepare(run)
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
    if run.finished():
        return
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


def all_runs() -> list[Run]:
    return [
        Run(name, seed) for name, plan in EXPERIMENTS.items() for seed in plan.seeds
    ]


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


# --- The tables -----------------------------------------------------------------------


def collect() -> None:
    """Write what the finished runs say to results/.

    Rows of runs that are not in this COURSE_HOME stay as they are. cpu.json: see
    runs.evaluated. experiments.json: see outcome. curves.csv: a row a run and step of
    GRPO. pass-at-k.json: how many of each problem's samples were right (a list).
    samples.json: what the first seed's runs answered to a few problems, greedily.
    """
    new = {name: [] for name in KEYS}
    for run in all_runs():
        key = {"experiment": run.experiment, "seed": run.seed}
        if run.experiment == "course":
            new["cpu.json"] += runs.evaluated(run.home)
        if not run.plan.makes and run.finished():
            row = {"seed": run.seed, "samples": PASS_SAMPLES}
            counts = json.loads(run.counts.read_text())
            new["pass-at-k.json"] += [
                row | {"stage": s, "right": counts[s]} for s in counts
            ]
        last = run.manifest(run.plan.makes or "")
        first = (run if run.plan.makes == "grpo" else run.course).manifest("sft")
        if last and first:
            told = last["metrics"]
            new["experiments.json"].append(key | outcome(run, first["metrics"], last))
            new["curves.csv"] += [key | runs.logged(e) for e in told["log_history"]]
            if run.seed == SEEDS[0]:
                new["samples.json"] += [key | sample for sample in told["samples"]]
    order = [(run.experiment, run.seed) for run in all_runs()]

    def place(row: dict) -> tuple[str, int]:
        return row.get("experiment", "course"), row["seed"]

    for name, key in KEYS.items():
        rows = tables.merged(tables.read(name), new[name], key)
        rows = [row for row in rows if place(row) in order]
        tables.write(name, sorted(rows, key=lambda row: order.index(place(row))))


def outcome(run: Run, before: dict, last: dict) -> dict:
    """What changed on the same held-out problems, greedy decoding.

    Besides what runs.evaluated tells: before and accuracy (after it; both 0 to 1),
    p_value (exact McNemar test), sampled (accuracy when sampled as in training), and
    what it ran on.
    """
    after = last["metrics"]
    old, new = before["correct"], after["correct"]
    row = {"about": run.plan.about, "n": len(new), "before": sum(old) / len(old)}
    row |= {k: after["evaluation"]["greedy"][k] for k in runs.MEASURES if k != "n"}
    row |= {"sampled": after["evaluation"]["sampled"]["accuracy"]}
    row |= {"p_value": statistics.paired_p_value(old, new)}
    row |= {"minutes": after.get("minutes"), "machine": machine()}
    row |= {name: last["packages"].get(name) for name in ("python", "torch")}
    return {name: tables.short(value) for name, value in row.items()}


def machine() -> str:
    """The name of the processor, and its threads."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} threads"


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
        collect()
    if failed:
        sys.exit(f"Not done: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
