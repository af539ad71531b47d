"""verl's adapter as the stage `grpo`, for notebook 06.

    python -m recipes.verl.collect OUT

OUT: the folder of `prepare`, with verl's merged model (and in it lora_adapter) in
OUT/merged. The stage is not measured yet: `python -m recipes.grpo recipes/ddp.toml`
finds it, trains nothing, and does that.
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors import safe_open

from grpo_course.ground import stages
from grpo_course.ground.files import remove
from grpo_course.ground.manifests import MANIFEST
from grpo_course.ground.profile import load_profile
from recipes import HERE  # noqa: F401  # it says where grpo_course is

WEIGHTS = "adapter_model.safetensors"


def shapes(path: Path) -> dict:
    with safe_open(path, "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}


def main(out: Path) -> None:
    profile = load_profile()
    parent = stages.open_stage("sft", profile)
    new, made_of = out / "merged" / "lora_adapter" / WEIGHTS, out / "made-of.json"
    if not (new.is_file() and made_of.is_file()):
        sys.exit(f"{out} has no {new.relative_to(out)}, or was not made by prepare.")
    if shapes(new) != shapes(parent.path / WEIGHTS):
        sys.exit(f"{new} has other weights than the adapter it began from.")
    told = json.loads(made_of.read_text())
    with stages.write_stage("grpo", profile, parent, data=told["data"]) as draft:
        shutil.copytree(parent.path, draft.path, dirs_exist_ok=True)
        remove(draft.path / MANIFEST)
        shutil.copy(new, draft.path / WEIGHTS)
        draft.metrics = {"engine": "verl", "rows": told["rows"], "log_history": []}
    grpo = stages.finished("grpo", profile, parent, data=told["data"])
    print(f"stage grpo {grpo.digest[:12]}, not measured yet")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
