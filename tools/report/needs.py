"""Write results/needs.csv, which notebooks 02, 03 and 05 show: `make results`.

A row a notebook's stage and profile: the GPU's memory that the profile is for, its
model, the memory at the peak of the training, and the minutes of the whole notebook.
"""

from statistics import median

from grpo_course.ground.profile import PROFILES
from tools.report import tables

CPU = {"profile": "cpu", "machine": "2 CPU cores"}


def needs() -> list[dict]:
    """The rows, all text; "not measured": not with the profile's own model."""
    cpu = CPU | {"model": PROFILES["cpu"].model_name}
    evaluated = [cpu | row for row in tables.read("cpu.json")] + tables.read("gpu.json")
    # Of a tier with its model's size in random weights, or of a run with its own model
    tiers = [row for row in tables.read("gpu-tiers.json") if "error" not in row]
    own = [{"model": PROFILES[row["profile"]].model_name} for row in tiers]
    peaks = [row | model for row, model in zip(tiers, own, strict=True)]
    peaks += tables.read("gpu-usage.json")
    return [
        {
            "stage": stage,
            "profile": name,
            "GPU memory": f"{p.min_gpu_gib:.0f} GiB" if p.on_gpu else "none",
            "model": p.model_name,
            "at the peak": peak(like(peaks, p, step=stage)) if p.on_gpu else "none",
            "minutes": minutes(like(evaluated, p, stage=stage)),
        }
        for stage in ("base", "sft", "grpo")
        for name, p in PROFILES.items()
    ]


def like(rows: list[dict], profile, **wanted: str) -> list[dict]:
    """The rows of a profile with its own model."""
    wanted |= {"profile": profile.name, "model": profile.model_name}
    return [row for row in rows if wanted.items() <= row.items()]


def peak(rows: list[dict]) -> str:
    return f"{rows[-1]['gib_peak']:.1f} GiB" if rows else "not measured"


def minutes(rows: list[dict]) -> str:
    """The median on the machine that was measured last."""
    if not rows:
        return "not measured"
    machine = rows[-1]["machine"]
    taken = [row["minutes"] for row in rows if row["machine"] == machine]
    return f"{median(taken):.1f} ({machine})"


if __name__ == "__main__":
    tables.write("needs.csv", needs())
