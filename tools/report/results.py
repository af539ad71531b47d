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
from tools.measure import gpu_limits
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


def scaled(rows: list[dict]) -> list[dict]:
    """Rows of recipes.compare, with each rate set against that of one GPU, if known."""
    same = ("machine", "model", "completions")
    alone = [row for row in rows if (row["way"], row["processes"]) == ("ddp", 1)]
    one = {tables.key_of(row, same): row["tokens_per_s"] for row in alone}
    for row in rows:
        row["gpus"] = row["processes"] + (row["way"] == "server")
        if rate := one.get(tables.key_of(row, same)):
            row["ratio"] = row["tokens_per_s"] / rate
    return rows


NOT_SHOWN = r"first|samples"  # of the trials' problems: parts and samples; see the file
GAINED = ("B", "C", "D", "E")
WARM, HEALTHY = 4, 0.3  # first step without compiling; unseen tokens a completion
PARTS = {"vLLM generates": "generation", "rewards": "rewards"}
PARTS |= {"loss, forward": "forward", "loss, backward": "backward"}


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


class Table(NamedTuple):
    """One of the README's tables of what was measured on GPUs."""

    columns: str
    rows: Callable[[list[dict]], list[dict]] = list  # what to show of the file's rows
    file: str = "{name}.json"


GPU_TABLES = {  # by their markers in the README
    "gpu-trials": Table(
        "trial: {trial} | asked in: {form} | after: {after} | problems: {problems}"
        "|| n: {n:,} | right: {accuracy:.1%}"
        "| 95 % interval: {ci_low:.1%} to {ci_high:.1%}"
        "| format: {format_rate:.1%} | cut off: {truncated_rate:.1%}"
        "| tokens: {mean_completion_tokens:.0f}"
        "| gained and lost since native: +{gained} -{lost} (p = {p:.2g})",
        lambda rows: [r for r in rows if not re.search(NOT_SHOWN, r["problems"])],
    ),
    "gpu-expected": Table(
        "step: {step} || right: {right:.0%} | well formed: {well_formed:.0%}"
        "| cut off: {clipped:.1%} | groups without variance: {zero_std:.0%}"
        "| tokens: {tokens:.0f} | gradient's norm: {grad_norm:.3f} | trials: {trials}",
        expected,
        "gpu-trial-curves.csv",
    ),
    "gpu-timeline": Table(
        "part: {part} || seconds: {seconds:.2f} | share: {share:.0%} | steps: {steps}",
        timeline,
        "gpu-trial-curves.csv",
    ),
    "gpu": Table(
        "machine: {machine} | model: {model} | stage: {stage} || n: {n}"
        "| accuracy: {accuracy:.1%} | 95 % interval: {ci_low:.1%} to {ci_high:.1%}"
        "| format: {format_rate:.1%} | accuracy, sampled: {sampled:.1%}"
        "| gained and lost since SFT: +{gained} -{lost} (p = {p:.2g})",
    ),
    "gpu-usage": Table(
        "machine: {where} | profile: {profile} | model: {model} | step: {step}"
        "|| minutes: {minutes:.1f} | GiB at the peak: {gib_peak:.1f}"
        "| start to first step (s): {to_first_step_s:.0f}"
        "| seconds a step: {step_s:.2f} | tokens a second: {tokens_per_s:,.0f}",
    ),
    "gpu-course": Table(
        "machine: {where} | profile: {profile} | model: {model} | start: {start}||"
        + "|".join(f"0{n}: {{in 0{n}:.0f}}" for n in range(1, 7))
        + "| 01 to 06: {all:.0f} | start of 05 to first step: {to_first_step_s:.0f}",
        courses,
    ),
    "gpu-exports": Table(
        "machine: {machine} | model: {model} | read as: {read as}"
        "|| same completions: {same completions} | accuracy: {accuracy:.0%}"
        "| 95 % interval: {ci_low:.0%} to {ci_high:.0%}"
        "| largest logit difference: {largest logit difference:.2g}"
        "| tokens a second: {tokens a second:,.0f}",
    ),
    "gpu-tiers": Table(
        "profile: {profile} | random weights: {model} | machine: {machine}"
        "| step: {step} || held to (GiB): {gib_held:g} | GiB loaded: {gib_loaded:g}"
        "| GiB at the peak: {gib_peak:.1f} | seconds a step: {step_s:.2f}"
        "| first step (s): {first_step_s:.0f}",
    ),
    "gpu-throughput": Table(
        "8B weights: {variant} | machine: {machine}"
        "|| completions a step: {completions} | seconds a step: {step_s:.2f}"
        "| of it generating: {of_it_generating_s:.2f}"
        "| tokens a second: {tokens_per_s:,.0f} | of the ideal: {share:.0%}"
        "| GiB at the peak: {gib_peak:.1f} | first step (s): {first_step_s:.0f}",
        shares,
    ),
    "gpu-natural": Table(
        "1.5B weights: {variant} | machine: {machine}"
        "|| completions a step: {completions} | tokens each: {tokens}"
        "| seconds a step: {step_s:.2f} | of it generating: {of_it_generating_s:.2f}"
        "| tokens a second: {tokens_per_s:,.0f} | GiB at the peak: {gib_peak:.1f}",
    ),
    "scale": Table(
        "way: {way} | weights: {model} | machine: {machine} | GPUs: {gpus}"
        "|| completions a step: {completions} | tokens each: {tokens:.0f}"
        "| seconds a step: {step_s:.2f} | of it sampling: {sampling_s:.2f}"
        "| tokens a second: {tokens_per_s:,.0f} | times one GPU: {ratio:.2f}"
        "| GiB at the peak: {gib_peak:.1f} | steps: {n}",
        scaled,
    ),
}


def on_gpus(name: str, rows: list[dict]) -> str:
    """One of GPU_TABLES, of the rows of its file."""
    for row in rows:
        held = f", held to {row['gib_held']:g} GiB" if row.get("gib_held") else ""
        row["where"] = row.get("machine", "-") + held
        if "gained" in row:
            row["p"] = mcnemar_p_value(row["gained"], row["lost"])
    table = GPU_TABLES[name]
    return tables.markdown(table.columns, table.rows(rows) if rows else [])


def filled(page: str) -> str:
    """The README with its tables. ValueError if the markers for them are not there."""
    parts = {"results": on_cpu(), "second-set": second_set()}
    for name, table in GPU_TABLES.items():
        parts[name] = on_gpus(name, tables.read(table.file.format(name=name)))
    for marker, text in parts.items():
        page = tables.fill(page, marker, text)
    return page


def main() -> None:
    write_whole(ROOT / "README.md", filled((ROOT / "README.md").read_text()))


if __name__ == "__main__":
    main()
