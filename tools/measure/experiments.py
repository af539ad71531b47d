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
    """What its runs change (fields of the profile), where they begin, what they do.

    start: the stage of the course that they begin with; None: from nothing.
    """

    about: str
    changes: dict[str, object] = field(default_factory=dict)
    start: str | None = "sft"
    notebooks: tuple[str, ...] = ("05",)
    seeds: tuple[int, ...] = SEEDS

    @property
    def makes(self) -> str | None:
        """Its last stage."""
        return STAGE_OF[self.notebooks[-1]] if self.notebooks else None


RATE = CPU.grpo_learning_rate
MORE_SFT = {"sft_data": "{home}/further.jsonl", "sft_epochs": 1}
MORE_SFT |= {"sft_examples": CPU.grpo_steps * CPU.grpo_generation_batch}
MORE_SFT |= {"sft_batch_size": CPU.grpo_generation_batch}
NO_WARM_UP = {"train_anyway": True, "sft_learning_rate": 1e-12, "sft_examples": 8}
NO_WARM_UP |= {"sft_epochs": 1, "sft_warmup_steps": 0}  # else the one step has rate 0
CUT = {"max_completion_length": 32, "train_anyway": True}
DR_GRPO = {"loss_type": "dr_grpo", "scale_rewards": "none"}
ONE = {"seeds": (3407,)}  # enough to see the signs

# Its order is the order in which runs are started.
EXPERIMENTS = {
    "course": Experiment(
        "the course as it is", start=None, notebooks=("01", "02", "03", "05")
    ),
    # Controls: rewards that know nothing of the answer, and more of the warm-up
    "format": Experiment("pays for the format only", {"reward": "format"}),
    "random": Experiment("throws a coin", {"reward": "random"}),
    "sft-more": Experiment(
        "SFT goes on instead of GRPO, with as many steps and examples",
        MORE_SFT,
        notebooks=("03",),
    ),
    # A reward that can be cheated, and the same one mended (notebook 04)
    "flawed": Experiment("a reward that can be cheated", {"reward": "flawed"}),
    "fixed": Experiment("the same reward, mended", {"reward": "fixed"}),
    # Ablations, one setting at a time; the completions per step stay the same
    "group-4": Experiment("groups of 4", {"num_generations": 4}),
    "group-16": Experiment("groups of 16", {"num_generations": 16}),
    "rate-third": Experiment("a third of the rate", {"grpo_learning_rate": RATE / 3}),
    "rate-triple": Experiment("three times the rate", {"grpo_learning_rate": RATE * 3}),
    "loss-grpo": Experiment("each completion counts the same", {"loss_type": "grpo"}),
    "loss-dr_grpo": Experiment("no division by length or std", DR_GRPO),
    # Choosing problems (MAP.md): as many samples as the training itself takes
    "pass-rate": Experiment(
        "only problems solved sometimes, of 4 tries", {"pass_samples": 4}
    ),
    # Sick on purpose
    "sick-rate": Experiment(
        "ten times the rate", {"grpo_learning_rate": RATE * 10}, **ONE
    ),
    "sick-limit": Experiment("completions cut after 32 tokens", CUT, **ONE),
    "sick-cold": Experiment(
        "no warm-up: SFT at a rate that changes nothing",
        NO_WARM_UP,
        start="template",
        notebooks=("03", "05"),
        **ONE,
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
        """The environment of its notebooks: its own settings, and the seed's own data
        (that of one seed comes with the course)."""
        values = {"reward": "course"}
        if self.seed != tiny_rows.SEED:
            folder = HOME / "rows" / str(self.seed)
            if not folder.is_dir():
                tiny_rows.write_rows(folder, self.seed)
            values |= {f"{n}_data": folder / f"{n}.jsonl" for n in ("sft", "grpo")}
        values |= self.plan.changes | {"home": self.home, "seed": self.seed}
        texts = {n: str(v).replace("{home}", str(self.home)) for n, v in values.items()}
        return os.environ | {f"COURSE_{n.upper()}": text for n, text in texts.items()}

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
