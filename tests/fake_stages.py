"""Stages as far as tools look at them: a manifest, and nothing that it lists."""

from pathlib import Path

from grpo_course.ground import stages


def fake_stage(home: Path, name: str, settings: dict, packages=None, **metrics) -> Path:
    """Write the manifest of a stage; its folder."""
    model = {"name": "a model", "digest": None, "revision": None}
    manifest = {"format": stages.FORMAT, "stage": name, "parent": None, "files": {}}
    manifest |= {"base_model": model, "settings": settings, "facts": {}}
    manifest |= {"packages": packages or {}, "metrics": metrics}
    manifest = stages._sealed(manifest)
    folder = home / "stages" / stages._folder_name(manifest)
    folder.mkdir(parents=True)
    (folder / stages.MANIFEST).write_bytes(stages.json_bytes(manifest))
    return folder
