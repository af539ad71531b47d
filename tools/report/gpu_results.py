"""What was measured on GPUs, and how a reader adds rows from a run of their own.

    python -m tools.report.gpu_results [...]

    add                    rows of what COURSE_HOME holds
    add --name "My model"  the same, with this name for the model
    README.md              write the tables into the README

Rows are kept in results/gpu.json (a row a stage), results/gpu-usage.json (a row a long
step: time and memory), results/gpu-curves.csv (a row a step of GRPO),
results/gpu-exports.json (a row a way to read an export), and, from tools of their own,
results/gpu-course.json (time_course), results/gpu-tiers.json (measure_tiers) and
results/gpu-throughput.json (bench_grpo). What `add` writes replaces the rows of the
same run: machine, profile, model, seed, and memory held to.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

from grpo_course.gauges import evaluation
from grpo_course.ground import stages
from tools.measure import bench_grpo
from tools.measure.make_random_model import QWEN3_8B
from tools.report import results

ACCURACY = results.ROOT / "results" / "gpu.json"
USAGE = results.ROOT / "results" / "gpu-usage.json"
CURVES = results.ROOT / "results" / "gpu-curves.csv"
EXPORTS = results.ROOT / "results" / "gpu-exports.json"
COURSE = results.ROOT / "results" / "gpu-course.json"
TIERS = results.ROOT / "results" / "gpu-tiers.json"
THROUGHPUT = results.ROOT / "results" / "gpu-throughput.json"
START, END = "<!-- gpu:start -->", "<!-- gpu:end -->"
RUN = ("machine", "profile", "model", "seed", "gib_held")
KEY = (*RUN, "stage", "step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", help='"add", or the README to write the tables into')
    parser.add_argument(
        "--name", help="what to call the model, if it is a local folder"
    )
    options = parser.parse_args()
    if options.what != "add":
        write_readme(Path(options.what))
        return
    rows = collect(stages.home(), options.name)
    if not rows.usage:
        sys.exit(f"{stages.home()} has no finished stage sft or grpo of a GPU profile.")
    results.add(ACCURACY, rows.accuracy, KEY)
    results.add(USAGE, rows.usage, KEY)
    results.add(EXPORTS, rows.exports, RUN)
    curves = results.merged(results.read_csv(CURVES), rows.curve, RUN)
    results.save_csv(CURVES, curves)
    write_readme(results.ROOT / "README.md")
    print(accuracy_as_markdown(rows.accuracy))


class Rows(NamedTuple):
    """What a run adds to the tables."""

    accuracy: list[dict]
    usage: list[dict]
    curve: list[dict]
    exports: list[dict]


def collect(home: Path, label: str | None = None) -> Rows:
    """The rows of the stages under a COURSE_HOME.

    Usage: seconds a step and completion tokens a second are medians over the steps of
    the log without the first, which compiles; that one counts for the seconds from the
    start of the process to the end of the first step.
    """
    usage, shared = [], {}
    for step in ("sft", "grpo"):
        manifest = _manifest(home, step)
        took = manifest.get("metrics", {}).get("usage", {})
        if took.get("gib_peak") is None:  # not there, or made without a GPU
            continue
        settings = manifest["settings"]
        shared = {name: took[name] for name in ("machine", "profile", "gib_held")}
        shared |= {"model": label or settings["model_name"], "seed": settings["seed"]}
        usage.append({"step": step} | shared | took | speed(manifest, took))
    if not shared:
        return Rows([], [], [], [])
    more = outcomes(home)
    accuracy = [row | more[row["stage"]] | shared for row in results.rows(home)]
    log = _manifest(home, "grpo").get("metrics", {}).get("log_history", [])
    curve = [shared | results.logged(entry) for entry in log if "reward" in entry]
    proof = _manifest(home, "export").get("metrics", {}).get("exports", [])
    return Rows(accuracy, usage, curve, [shared | row for row in proof])


def outcomes(home: Path) -> dict[str, dict]:
    """By stage, what a row of accuracy has beyond the greedy one's.

    sampled: the accuracy at the temperature of the rollouts. For "grpo" also gained and
    lost: problems that are answered right since SFT, greedily, and those no longer.
    """
    found, correct = {}, {}
    for stage, folder in results.STAGES.items():
        metrics = _manifest(home, folder).get("metrics", {})
        sampled = metrics.get("evaluation", {}).get("sampled", {})
        found[stage] = {"sampled": sampled.get("accuracy")}
        correct[stage] = metrics.get("correct", [])
    before, after = correct["sft"], correct["grpo"]
    if before and len(before) == len(after):  # the same problems
        pairs = list(zip(before, after, strict=True))
        found["grpo"] |= {"gained": sum(old < new for old, new in pairs)}
        found["grpo"] |= {"lost": sum(old > new for old, new in pairs)}
    return found


def _manifest(home: Path, stage: str) -> dict:
    """What a stage under a COURSE_HOME says of itself; {} if there is none."""
    path = home / "stages" / stage / stages.MANIFEST
    return json.loads(path.read_text()) if path.is_file() else {}


def speed(manifest: dict, took: dict) -> dict:
    """Of a GRPO log: step_s, tokens_per_s, and to_first_step_s if that is known."""
    log = [e for e in manifest["metrics"]["log_history"] if "step_time" in e]
    if not log[1:]:
        return {}
    first, *log = log
    batch = manifest["settings"]["grpo_batch_size"]
    batch *= manifest["settings"]["grpo_grad_accum"]
    seconds = [float(entry["step_time"]) for entry in log]
    rates = [
        batch * float(entry["completions/mean_length"]) / second
        for entry, second in zip(log, seconds, strict=True)
    ]
    found = {
        "step_s": round(statistics.median(seconds), 2),
        "tokens_per_s": round(statistics.median(rates)),
    }
    if first["step"] == 1 and "seconds_before" in took:
        begun = took["seconds_before"] + float(first["step_time"])
        found["to_first_step_s"] = round(begun, 1)
    return found


# --- Tables ---------------------------------------------------------------------------


def accuracy_as_markdown(table: list[dict]) -> str:
    """What the models could do after each stage."""
    lines = [("machine", "model", "stage", "n", "accuracy", "95 % interval", "format")]
    lines[0] += ("accuracy, sampled", "gained and lost since SFT")
    for row in table:
        interval = f"{row['ci_low']:.1%} to {row['ci_high']:.1%}"
        line = (row["machine"], row["model"], row["stage"], str(row["n"]))
        line += (f"{row['accuracy']:.1%}", interval, f"{row['format_rate']:.1%}")
        changed = "-"
        if "gained" in row:
            p = evaluation.mcnemar_p_value(row["gained"], row["lost"])
            changed = f"+{row['gained']} -{row['lost']} (p = {p:.2g})"
        lines.append((*line, cell(row, "sampled", ".1%"), changed))
    return markdown(lines, numbers_from=3)


def usage_as_markdown(table: list[dict]) -> str:
    """Time and memory of the long steps."""
    lines = [("machine", "profile", "model", "step", "minutes", "GiB at the peak")]
    lines[0] += ("start to first step (s)", "seconds a step", "tokens a second")
    for row in table:
        line = (machine(row), row["profile"], row["model"], row["step"])
        line += (f"{row['minutes']:.1f}", f"{row['gib_peak']:.1f}")
        line += (cell(row, "to_first_step_s", ".0f"), cell(row, "step_s", ".2f"))
        lines.append((*line, cell(row, "tokens_per_s", ",.0f")))
    return markdown(lines, numbers_from=4)


def course_as_markdown(table: list[dict]) -> str:
    """Seconds of each notebook: a line a run."""
    runs: dict[tuple, list[dict]] = {}
    heading = ("machine", "profile", "model", "start")
    for row in table:
        row = row | {"machine": machine(row)}
        runs.setdefault(tuple(row[name] for name in heading), []).append(row)
    numbers = sorted({row["notebook"][:2] for row in table})
    lines = [(*heading, *numbers, "01 to 06")]
    lines[0] += ("start of 05 to first step",)
    for names, rows in runs.items():
        seconds = {row["notebook"][:2]: row["seconds"] for row in rows}
        line = (*names, *(cell(seconds, number, ".0f") for number in numbers))
        first = next((row for row in rows if "to_first_step_s" in row), {})
        together = f"{sum(seconds.values()):.0f}" if len(seconds) == 6 else "-"
        line += (together, cell(first, "to_first_step_s", ".0f"))
        lines.append(line)
    return markdown(lines, numbers_from=4)


def exports_as_markdown(table: list[dict]) -> str:
    """What notebook 06 recorded: each export set against the adapter."""
    lines = [("machine", "model", "read as", "same completions", "accuracy")]
    lines[0] += ("95 % interval", "largest logit difference", "tokens a second")
    for row in table:
        line = (row["machine"], row["model"], row["read as"], row["same completions"])
        interval = f"{row['ci_low']:.0%} to {row['ci_high']:.0%}"
        line += (f"{row['accuracy']:.0%}", interval)
        line += (cell(row, "largest logit difference", ".2g"),)
        lines.append((*line, cell(row, "tokens a second", ",.0f")))
    return markdown(lines, numbers_from=3)


def tiers_as_markdown(table: list[dict]) -> str:
    """What measure_tiers measured."""
    lines = [("profile", "random weights", "machine", "step", "held to (GiB)")]
    lines[0] += ("GiB loaded", "GiB at the peak", "seconds a step", "first step (s)")
    for row in table:
        line = (row["profile"], row.get("model", ""), row.get("machine", ""))
        line += (row["step"],)
        if "error" in row:
            lines.append((*line, cell(row, "gib_held", "g"), row["error"], "", "", ""))
            continue
        line += tuple(cell(row, f"gib_{name}", "g") for name in ("held", "loaded"))
        line += (cell(row, "gib_peak", ".1f"), cell(row, "step_s", ".2f"))
        lines.append((*line, cell(row, "first_step_s", ".0f")))
    return markdown(lines, numbers_from=4)


def throughput_as_markdown(table: list[dict]) -> str:
    """What bench_grpo measured; each rate also as a share of the ideal one."""
    lines = [("8B weights", "machine", "completions a step", "seconds a step")]
    lines[0] += ("of it generating", "tokens a second", "of the ideal")
    lines[0] += ("GiB at the peak", "first step (s)")
    names = ("bandwidth_tb_per_s", "rate_tflop_per_s")
    ideals = [row for row in table if row["variant"] == "ideal" and "error" not in row]
    limits = {row["machine"]: {name: row[name] for name in names} for row in ideals}
    for row in table:
        line = (row["variant"], row.get("machine", ""))
        if "error" in row:
            lines.append((*line, "", row["error"], "", "", "", "", ""))
            continue
        share = "-"
        if row.get("machine") in limits:
            there = limits[row["machine"]]
            best = bench_grpo.ideal_step(row["completions"], QWEN3_8B, **there)
            share = f"{row['tokens_per_s'] / best['tokens_per_s']:.0%}"
        line += (str(row["completions"]), cell(row, "step_s", ".2f"))
        line += (cell(row, "of_it_generating_s", ".2f"),)
        line += (cell(row, "tokens_per_s", ",.0f"), share)
        line += (cell(row, "gib_peak", ".1f"), cell(row, "first_step_s", ".0f"))
        lines.append(line)
    return markdown(lines, numbers_from=2) + chosen(table)


def chosen(table: list[dict]) -> str:
    """A sentence on the variant with the batch of the profile a100, if it was tried."""
    rates = {
        (row.get("machine"), row["variant"]): row.get("tokens_per_s") for row in table
    }
    batch = f"{bench_grpo.A100.grpo_batch_size} x {bench_grpo.A100.grpo_grad_accum}"
    for gpu in dict.fromkeys(row.get("machine") for row in table):
        ours = rates.get((gpu, f"unsloth {batch}"))
        tutorial = rates.get((gpu, "tutorial"))
        if ours and tutorial:
            times = f"{ours / tutorial:.1f} times the tutorial's tokens a second"
            return f"\n\nThe profile `a100` takes {batch}: {times}."
    return ""


def machine(row: dict) -> str:
    """The machine of a row, and how much of its memory there was, if not all."""
    held = row.get("gib_held")
    return row["machine"] + (f", held to {held:g} GiB" if held else "")


def cell(row: dict, name: str, pattern: str) -> str:
    """One cell; "-" where nothing was measured."""
    return "-" if row.get(name) is None else format(row[name], pattern)


def markdown(lines: list[tuple[str, ...]], numbers_from: int) -> str:
    """Lines, the first one the headings, as a Markdown table."""
    width = len(lines[0])
    rule = ("---",) * numbers_from + ("---:",) * (width - numbers_from)
    heading, *rows = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (heading, rule, *rows))


TABLES = {  # a title, the table, and what to know when reading it
    ACCURACY: (
        "What the models could do",
        accuracy_as_markdown,
        "Greedily, and with completions sampled as GRPO samples them. The last column "
        "counts problems, and p is that of McNemar's exact test.",
    ),
    USAGE: (
        "Time and memory of the long steps",
        usage_as_markdown,
        "Of runs of the notebooks. vLLM takes its share of the whole GPU, or of what "
        "it is held to, however small the model.",
    ),
    COURSE: (
        "Seconds of each notebook",
        course_as_markdown,
        "With the imports; cold, and with the compilers' caches of an earlier run.",
    ),
    EXPORTS: (
        "Exports, read by other software",
        exports_as_markdown,
        "The proof of notebook 06: each set against the adapter as it is in that "
        "notebook, on a hundred held-out problems and one more question (the accuracy "
        "is of the hundred). Where vLLM is not named, transformers and PEFT read the "
        "export, in a fresh process. The speeds are those of one run.",
    ),
    TIERS: (
        "Does each profile fit its GPU?",
        tiers_as_markdown,
        "A few steps with the longest rows and completions, on a larger GPU held to "
        "the memory of the smaller one, whose seconds these are not.",
    ),
    THROUGHPUT: (
        "How fast is GRPO at 8B size?",
        throughput_as_markdown,
        f"With {bench_grpo.TOKENS} tokens in each completion, held to an A100's "
        f"{bench_grpo.A100_GIB:.0f} GiB. `8 x 8` are eight micro-batches of eight "
        "completions; the ideal counts nothing but reading the weights and the cache, "
        "and multiplying.",
    ),
}


def as_markdown() -> str:
    """All tables that have rows, as the README has them: folded but for the first."""
    parts = []
    for path, (title, table, caption) in TABLES.items():
        if rows := results.read(path):
            how = "" if parts else " open"
            heading = f"<details{how}>\n<summary>{title}</summary>"
            parts += [heading, caption, table(rows), "</details>"]
    return "\n\n".join(parts) or "*Not measured yet.*"


def write_readme(path: Path) -> None:
    """Put the tables between the README's markers."""
    text = path.read_text()
    if START not in text or END not in text:
        sys.exit(f"{path} has no markers {START} and {END} for the tables.")
    before, _, rest = text.partition(START)
    path.write_text(f"{before}{START}\n{as_markdown()}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
