"""Stages as far as tools look at them: a manifest, and nothing that it lists."""

from pathlib import Path

from grpo_course.ground import files, manifests


def fake_stage(home: Path, name: str, settings: dict, packages=None, **metrics) -> Path:
    """Write the manifest of a stage; its folder."""
    manifest = {"format": manifests.FORMAT, "stage": name, "parent": None, "files": {}}
    manifest |= {"base_model": "a model", "revision": None}
    manifest |= {"settings": settings, "facts": {}}
    manifest |= {"packages": packages or {}, "metrics": metrics}
    folder = home / "stages" / manifests.folder_name(manifest)
    folder.mkdir(parents=True)
    files.write_sealed(folder / manifests.MANIFEST, manifest)
    return folder
