"""Write the README's tables from results/: `make results`.

No number is ever typed.
"""

import json
import re
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from grpo_course.ground.statistics import mcnemar_p_value
from tools import ROOT, write_whole
from tools.measure import bench, gpu_limits
from tools.report import runs, tables

GAINS = """run: {experiment} | what it is: {about} || seeds: {seeds}
| before: {before:.1%} | after: {accuracy:.1%}
| gain, lowest to highest: {gain:+.1f} points ({spread})"""


def gains(outcomes: list[dict]) -> list[dict]:
    """A row an experiment: means over its seeds, and what it changed, in points."""
    runs, rows = pd.DataFrame(outcomes), []
    runs["gain"] = 100 * (runs["accuracy"] - runs["before"])
    for (name, about), seeds in runs.groupby(["experiment", "about"], sort=False):
        spread = f"{seeds['gain'].min():+.1f} to {seeds['gain'].max():+.1f}"
        means = dict(seeds[["before", "accuracy", "gain"]].mean())
        means["spread"] = spread if len(seeds) > 1 else "one seed"
        rows.append({"experiment": name, "about": about, "seeds": len(seeds)} | means)
    return rows


def on_cpu() -> str:
    """The tables of the tiny model: each stage, and each experiment."""
    stages = tables.markdown(runs.COLUMNS, tables.read("cpu.json"))
    outcomes = tables.read("experiments.json")
    return f"{stages}\n\n{tables.markdown(GAINS, gains(outcomes) if outcomes else [])}"


SECOND_SET = ROOT / "real_model"


def second_set() -> str:
    """A sentence with links to the notebooks as a real model ran them, if there are."""
    paths = sorted(SECOND_SET.glob("*.ipynb"))
    told = [json.loads(path.read_text())["metadata"]["course"] for path in paths]
    if not told:
        return ""
    made, place = told[-1]["made_by"], SECOND_SET.name
    links = [f"[{p.name.partition('_')[0]}]({place}/{p.name})" for p in paths]
    how = f"as {made['model']} ran them on {made['machine']}"
    return f"The same cells {how}, with their outputs: {', '.join(links)}."


# --- On GPUs --------------------------------------------------------------------------


def courses(rows: list[dict]) -> list[dict]:
    """A row a run of the notebooks, from a row a notebook."""
    runs: dict[tuple, dict] = {}
    for row in rows:
        key = tables.key_of(row, ("machine", "gib_held", "profile", "model", "start"))
        run = runs.setdefault(key, {})
        run |= row | {f"in {row['notebook'][:2]}": row["seconds"]}
    for run in runs.values():
        times = [run[f"in 0{n}"] for n in range(1, 7) if f"in 0{n}" in run]
        run["all"] = sum(times) if len(times) == 6 else None
    return list(runs.values())


def shares(rows: list[dict]) -> list[dict]:
    """Rows of bench, with each rate also as a share of its own GPU's ideal one."""
    names = ("bandwidth_tb_per_s", "rate_tflop_per_s")
    limits = {r["machine"]: {n: r[n] for n in names} for r in rows if names[0] in r}
    for row in rows:
        if "error" not in row and row.get("machine") in limits:
            there = limits[row["machine"]]
            best = gpu_limits.ideal_step(row["completions"], **there)
            row["share"] = row["tokens_per_s"] / best["tokens_per_s"]
    return rows


NOT_SHOWN = r"first|samples"  # of the trials' problems: parts and samples; see the file
GAINED = ("B", "C", "D", "E")
WARM, HEALTHY = 4, 0.3  # first step without compiling; unseen tokens a completion
PARTS = {"vLLM generates": "generation", "rewards": "rewards"}
PARTS |= {"loss, forward": "forward", "loss, backward": "backward"}


class Table(NamedTuple):
    """One of the README's tables of what was measured on GPUs."""

    title: str
    columns: str
    caption: str  # what to know when reading it
    rows: Callable[[list[dict]], list[dict]] = list  # what to show of the file's rows

    def markdown(self, rows: list[dict]) -> str:
        """The table of a file's rows."""
        for row in rows:
            held = f", held to {row['gib_held']:g} GiB" if row.get("gib_held") else ""
            row["where"] = row.get("machine", "-") + held
            if "gained" in row:
                row["p"] = mcnemar_p_value(row["gained"], row["lost"])
        return tables.markdown(self.columns, self.rows(rows))


def timeline(rows: list[dict]) -> list[dict]:
    """A row a part of a step: mean seconds over the trials' warm and healthy steps."""
    steps = pd.DataFrame(rows)
    warm = (steps["step"] >= WARM) & (steps["unseen_tokens"] < HEALTHY)
    means = steps[warm].mean(numeric_only=True)
    shown = [{"part": name, "seconds": means[column]} for name, column in PARTS.items()]
    rest = means["seconds"] - sum(row["seconds"] for row in shown)
    shown += [{"part": "the rest", "seconds": rest}]
    shown += [{"part": "a step", "seconds": means["seconds"]}]
    for row in shown:
        row |= {"share": row["seconds"] / means["seconds"], "steps": int(warm.sum())}
    return shown


def expected(rows: list[dict]) -> list[dict]:
    """A row for some steps: means over the trials that gained, five steps each."""
    steps, shown = pd.DataFrame(rows), []
    healthy = steps[steps["trial"].isin(GAINED)]
    for step in (1, 10, 20, 30, 45):
        near = healthy[(healthy["step"] - max(step, 3)).abs() <= 2]
        means = near.mean(numeric_only=True).to_dict()
        shown.append(means | {"step": step, "trials": near["trial"].nunique()})
    return shown


GPU_TABLES = {
    "gpu-trials.json": Table(
        "A real model becomes better than it was: trials",
        "trial: {trial} | asked in: {form} | after: {after} | problems: {problems}"
        "|| n: {n:,} | right: {accuracy:.1%}"
        "| 95 % interval: {ci_low:.1%} to {ci_high:.1%}"
        "| format: {format_rate:.1%} | cut off: {truncated_rate:.1%}"
        "| tokens: {mean_completion_tokens:.0f}"
        "| gained and lost since native: +{gained} -{lost} (p = {p:.2g})",
        "Qwen2.5-Coder-1.5B-Instruct on an NVIDIA H200. A to D: one seed, 32 problems "
        "x 8 completions a step, about fifty steps, room for 1,024 tokens before "
        "training and 640 after. E and F: another seed, 24 x 8, thirty steps, room for "
        "640 throughout; F throws a coin where E has the course's rewards. *native* is "
        "the model before any training, in its own chat template; of four ways to ask, "
        "the best on the validation problems was kept. Held out: 200 of GSM8K's test, "
        "1,119 of its training part. The other data are the tiny model's problems.",
        lambda rows: [r for r in rows if not re.search(NOT_SHOWN, r["problems"])],
    ),
    "gpu-trial-curves.csv#expected": Table(
        "What to expect, step by step",
        "step: {step} || right: {right:.0%} | well formed: {well_formed:.0%}"
        "| cut off: {clipped:.1%} | groups without variance: {zero_std:.0%}"
        "| tokens: {tokens:.0f} | gradient's norm: {grad_norm:.3f} | trials: {trials}",
        "Sampled completions of the trials that gained (B to E), for problems that the "
        "model solved sometimes before: means over the five steps around each. This is "
        "what health looks like: right completions slowly become more frequent; format "
        "and length stay where they are; groups without variance grow in number.",
        expected,
    ),
    "gpu-trial-curves.csv": Table(
        "Where a step of these trials goes",
        "part: {part} || seconds: {seconds:.2f} | share: {share:.0%} | steps: {steps}",
        "256 completions of about 330 tokens a step, in micro-batches of 16, without "
        "gradient checkpointing: the mean over the steps in which nothing compiled and "
        "nothing collapsed.",
        timeline,
    ),
    "gpu.json": Table(
        "What the models could do",
        "machine: {machine} | model: {model} | stage: {stage} || n: {n}"
        "| accuracy: {accuracy:.1%} | 95 % interval: {ci_low:.1%} to {ci_high:.1%}"
        "| format: {format_rate:.1%} | accuracy, sampled: {sampled:.1%}"
        "| gained and lost since SFT: +{gained} -{lost} (p = {p:.2g})",
        "Greedily, and with completions sampled as GRPO samples them. The last column "
        "counts problems, and p is that of McNemar's exact test.",
    ),
    "gpu-usage.json": Table(
        "Time and memory of the long steps",
        "machine: {where} | profile: {profile} | model: {model} | step: {step}"
        "|| minutes: {minutes:.1f} | GiB at the peak: {gib_peak:.1f}"
        "| start to first step (s): {to_first_step_s:.0f}"
        "| seconds a step: {step_s:.2f} | tokens a second: {tokens_per_s:,.0f}",
        "Of runs of the notebooks. vLLM takes its share of the whole GPU, or of what "
        "it is held to, however small the model.",
    ),
    "gpu-course.json": Table(
        "Seconds of each notebook",
        "machine: {where} | profile: {profile} | model: {model} | start: {start}||"
        + "|".join(f"0{n}: {{in 0{n}:.0f}}" for n in range(1, 7))
        + "| 01 to 06: {all:.0f} | start of 05 to first step: {to_first_step_s:.0f}",
        "With the imports; cold, and with the compilers' caches of an earlier run.",
        courses,
    ),
    "gpu-exports.json": Table(
        "Exports, read by other software",
        "machine: {machine} | model: {model} | read as: {read as}"
        "|| same completions: {same completions} | accuracy: {accuracy:.0%}"
        "| 95 % interval: {ci_low:.0%} to {ci_high:.0%}"
        "| largest logit difference: {largest logit difference:.2g}"
        "| tokens a second: {tokens a second:,.0f}",
        "The proof of notebook 06: each set against the adapter as it is in that "
        "notebook, on a hundred held-out problems and one more question (the accuracy "
        "is of the hundred). Where vLLM is not named, transformers and PEFT read the "
        "export, in a fresh process. The speeds are those of one run.",
    ),
    "gpu-tiers.json": Table(
        "Does each profile fit its GPU?",
        "profile: {profile} | random weights: {model} | machine: {machine}"
        "| step: {step} || held to (GiB): {gib_held:g} | GiB loaded: {gib_loaded:g}"
        "| GiB at the peak: {gib_peak:.1f} | seconds a step: {step_s:.2f}"
        "| first step (s): {first_step_s:.0f}",
        "A few steps with the longest rows and completions, on a larger GPU held to "
        "the memory of the smaller one, whose seconds these are not.",
    ),
    "gpu-throughput.json": Table(
        "How fast is GRPO at 8B size?",
        "8B weights: {variant} | machine: {machine}"
        "|| completions a step: {completions} | seconds a step: {step_s:.2f}"
        "| of it generating: {of_it_generating_s:.2f}"
        "| tokens a second: {tokens_per_s:,.0f} | of the ideal: {share:.0%}"
        "| GiB at the peak: {gib_peak:.1f} | first step (s): {first_step_s:.0f}",
        f"With {gpu_limits.TOKENS} tokens in each completion, held to an A100's "
        f"{bench.TIERS['a100'][0]:.0f} GiB. `8 x 8` are eight micro-batches of eight "
        "completions; the ideal counts nothing but reading the weights and the cache, "
        "and multiplying.",
        shares,
    ),
}


def on_gpus() -> str:
    """All tables that have rows, folded but for the first."""
    parts = []
    for name, table in GPU_TABLES.items():
        if rows := tables.read(name.partition("#")[0]):  # two may be of one file
            how = "" if parts else " open"
            heading = f"<details{how}>\n<summary>{table.title}</summary>"
            parts += [heading, table.caption, table.markdown(rows), "</details>"]
    return "\n\n".join(parts) or "*Not measured yet.*"


def filled(page: str) -> str:
    """The README with its tables. ValueError if the markers for them are not there."""
    parts = {"results": on_cpu, "second-set": second_set, "gpu": on_gpus}
    for marker, table in parts.items():
        page = tables.fill(page, marker, table())
    return page


def main() -> None:
    write_whole(ROOT / "README.md", filled((ROOT / "README.md").read_text()))


if __name__ == "__main__":
    main()
