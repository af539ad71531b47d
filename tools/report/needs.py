"""Write results/needs.csv, which notebooks 02, 03 and 05 show: `make results`.

A row a notebook's stage and profile: the GPU's memory that the profile is for, its
model, the memory at the peak of the training, and the minutes of the whole notebook.
"""

from statistics import median

from grpo_course.ground.profile import PROFILES
from tools.report import tables


def needs() -> list[dict]:
    """The rows, all text; "not measured": not with the profile's own model."""
    own = {name: {"model": p.model_name} for name, p in PROFILES.items()}
    cpu = {"profile": "cpu", "machine": "2 CPU cores"} | own["cpu"]
    evaluated = [cpu | row for row in tables.read("cpu.json")] + tables.read("gpu.json")
    # Of a tier with its model's size in random weights, or of a run with its own model
    tiers = [row for row in tables.read("gpu-tiers.json") if "error" not in row]
    peaks = [row | own[row["profile"]] for row in tiers]
    peaks += tables.read("gpu-usage.json")

    def last(rows: list[dict], **wanted: str) -> list[dict]:
        """The rows like this, of the machine that was measured last."""
        rows = [row for row in rows if wanted.items() <= row.items()]
        return [row for row in rows if row["machine"] == rows[-1]["machine"]]

    found = []
    for stage in ("base", "sft", "grpo"):
        for name, profile in PROFILES.items():
            peak, minutes = "none", "not measured"
            if profile.on_gpu:
                rows = last(peaks, step=stage, profile=name, **own[name])
                peak = f"{rows[-1]['gib_peak']:.1f} GiB" if rows else "not measured"
            if rows := last(evaluated, stage=stage, profile=name, **own[name]):
                taken = median(row["minutes"] for row in rows)
                minutes = f"{taken:.1f} ({rows[-1]['machine']})"
            size = f"{profile.min_gpu_gib:.0f} GiB" if profile.on_gpu else "none"
            row = {"stage": stage, "profile": name, "GPU memory": size} | own[name]
            found.append(row | {"at the peak": peak, "minutes": minutes})
    return found


if __name__ == "__main__":
    tables.write("needs.csv", needs())
