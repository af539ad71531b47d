"""The experiments behind the README and notebooks 04 and 05: what each changes.

EXPERIMENTS is the table; run_experiments.py does the runs, outcomes.py collects them.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from grpo_course.gauges import evaluation
from grpo_course.ground import stages
from grpo_course.ground.profile import PROFILES, load_profile
from tools.report import runs
from tools.tiny import rows as tiny_rows

HOME = stages.home() / "seeds"
STAGE_OF = {name[:2]: stage for stage, name in stages.NOTEBOOKS.items()}
SEEDS = (3407, 1, 2)
PASS_PROBLEMS, PASS_SAMPLES = 100, 16  # of pass@k
CPU = PROFILES["cpu"]


@dataclass(frozen=True)
class Experiment:
    """What its runs change (COURSE_* variables), where they begin, what they do.

    start: the stage of the course that they begin with; None: from nothing.
    """

    about: str
    settings: dict[str, str] = field(default_factory=dict)
    start: str | None = "sft"
    notebooks: tuple[str, ...] = ("05",)
    seeds: tuple[int, ...] = SEEDS

    @property
    def makes(self) -> str | None:
        """Its last stage."""
        return STAGE_OF[self.notebooks[-1]] if self.notebooks else None


def changed(about: str, seeds: tuple[int, ...] = SEEDS, **settings) -> Experiment:
    """GRPO from the course's warm-up, with other values of some profile fields."""
    variables = {f"COURSE_{name.upper()}": str(v) for name, v in settings.items()}
    return Experiment(about, variables, seeds=seeds)


# Its order is the order in which runs are started.
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
    # Choosing problems (MAP.md): as many samples as the training itself takes
    "pass-rate": changed("only problems solved sometimes, of 4 tries", pass_samples=4),
    # Sick on purpose; one seed is enough to see the signs
    "sick-rate": changed(
        "ten times the rate", (3407,), grpo_learning_rate=CPU.grpo_learning_rate * 10
    ),
    "sick-limit": changed(
        "completions cut after 32 tokens",
        (3407,),
        max_completion_length=32,
        train_anyway=True,
    ),
    "sick-cold": Experiment(
        "no warm-up: SFT at a rate that changes nothing",
        {
            "COURSE_TRAIN_ANYWAY": "true",
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
        notebooks=(),
    ),
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
    def plan(self) -> Experiment:
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
        told = self.manifest(self.plan.makes)
        profile = load_profile(self.environment)
        return bool(told) and (
            told["settings"] == profile.settings_for(self.plan.makes)
            and told["metrics"].get("conditions") == evaluation.conditions(profile)
        )


def all_runs() -> list[Run]:
    return [
        Run(name, seed) for name, plan in EXPERIMENTS.items() for seed in plan.seeds
    ]
