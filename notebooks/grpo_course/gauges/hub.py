"""Sharing an export on the Hugging Face hub: a card, a list, and then the upload."""

from collections.abc import Mapping
from pathlib import Path

from ..ground.checks import local_path
from ..ground.exports import RECORD, ExportError
from ..ground.keys import secret, without_secrets
from ..ground.stages import Stage

TOKEN = "HF_TOKEN"
SHOWN = {  # of the settings of each stage, what a card says
    "sft": ("sft_data", "sft_epochs", "sft_learning_rate", "lora_rank", "lora_alpha"),
    "grpo": ("grpo_data", "reward", "grpo_steps", "num_generations", "temperature")
    + ("max_completion_length", "grpo_learning_rate", "loss_type", "beta", "seed"),
}
LIBRARIES = {"lora": "peft", "gguf": "llama.cpp"}
LIMITS = """\
The training rewarded right final numbers in a fixed format, on problems whose answer is
a number; nothing else was trained or measured. The interval above is that of these
problems, and others may give another accuracy. The working that the model writes was
never checked step by step: it can be wrong and the answer right, or the reverse. It
answers with the same confidence where it knows nothing. The licences of the base and of
the data apply."""
TINY = """\
The base is a teaching-scale model of a few million parameters, made for a course: it
knows small arithmetic and nothing of the world."""


def files_to_upload(folder: Path) -> dict[str, int]:
    """What an upload of an export consists of: name -> bytes, without the card."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    return {name: size for name, size in sizes.items() if name != RECORD}


def token() -> str:
    """HF_TOKEN, from the environment (on Colab and Kaggle, from the secrets there).

    Raises ExportError, one sentence, where there is none, or one that cannot be sent.
    """
    found = secret(TOKEN)
    if found and not (found.isascii() and found.isprintable() and " " not in found):
        raise ExportError(f"{TOKEN} has characters that no token has: copy it again.")
    if found:
        return found
    raise ExportError(
        f"COURSE_HUB_REPO is set, but there is no {TOKEN}: put a token with write "
        "access into the environment or the platform's secrets, or leave "
        "COURSE_HUB_REPO empty."
    )


def upload(api, folder: Path, repository: str, card: str) -> str:
    """Upload one export with its card; a new repository is private.

    api: a `huggingface_hub.HfApi`. One that exists keeps the visibility it has. Returns
    the repository's address; raises ExportError without the token in its message.
    """
    if not files_to_upload(folder):
        raise ExportError(f"{folder} has no export to upload: run this notebook again.")
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_file(
            repo_id=repository, path_or_fileobj=card.encode(), path_in_repo="README.md"
        )
        api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            ignore_patterns=[RECORD, "README.md"],
        )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ExportError(
            f"The upload to {repository} failed: {without_secrets(reason, TOKEN)}"
        ) from None
    return str(address)


def model_card(name: str, chain: list[Stage], proof: list[Mapping]) -> str:
    """The README.md of an export, from the manifests of the stages it came from.

    name: the export's format. chain: the stages template, sft and grpo. proof: rows of
    notebook 06's table, with "read as", "same completions" and "accuracy".
    """
    last = chain[-1].manifest
    settings = last["settings"]
    base = settings["model_name"]
    tiny = settings["model_name"].startswith("models/")
    head = [] if local_path(base) else [f"base_model: {base}"]
    head += [f"library_name: {LIBRARIES.get(name.split('_')[0], 'transformers')}"]
    data = [settings[key] for key in ("sft_data", "grpo_data")]
    hub_data = [source.split(":")[0] for source in data if "/" in _plain(source)]
    if hub_data:
        head += ["datasets:", *(f"- {source}" for source in hub_data)]
    sections = [
        "---\n" + "\n".join([*head, "tags:", "- grpo", "- reasoning"]) + "\n---",
        f"# {_plain(base)}, trained to reason with GRPO ({name})",
        "A LoRA adapter was warmed up on worked solutions (SFT) and then trained with "
        "GRPO on rewards that a program can check. The chat template opens the "
        "reasoning; the answer stands between `<SOLUTION>` and `</SOLUTION>`.",
        "## Base and settings",
        f"Base: `{_plain(base)}`, {_revision(chain)}.",
        _settings_table(settings),
        "## Results",
        _results(chain),
        _proof(proof),
        "## Limits",
        LIMITS + ("\n" + TINY if tiny else ""),
        "## Made with",
        ", ".join(f"{n} {v}" for n, v in sorted(last["packages"].items())) + ".",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _plain(source: str) -> str:
    """A name without the folders of the machine it comes from."""
    if source.startswith("models/"):
        return source
    return local_path(source).name if local_path(source) else source


def _revision(chain: list[Stage]) -> str:
    base = chain[-1].manifest["base_model"]
    if base.get("digest"):
        return f"sha256 {base['digest'][:16]}"
    return f"revision {base.get('revision') or 'as of the training'}"


def _settings_table(settings: Mapping) -> str:
    rows = ["| stage | setting | value |", "|---|---|---|"]
    for stage, names in SHOWN.items():
        for name in names:
            value = settings[name]
            shown = _plain(value) if isinstance(value, str) else value
            rows.append(f"| {stage} | {name} | {shown} |")
    return "\n".join(rows)


def _results(chain: list[Stage]) -> str:
    rows = [
        "| after | n | accuracy | 95 % interval | format |",
        "|---|---|---|---|---|",
    ]
    for stage in chain:
        found = stage.metrics["evaluation"]["greedy"]
        rows.append(
            f"| {stage.name} | {found['n']} | {found['accuracy']:.1%} | "
            f"{found['ci_low']:.1%} to {found['ci_high']:.1%} | "
            f"{found['format_rate']:.1%} |"
        )
    source = chain[-1].manifest["facts"]["evaluation"]["eval_data"]
    text = f"Held-out problems (`{_plain(source)}`), greedy decoding."
    return (
        text
        + " `template` is the base model before any training.\n\n"
        + "\n".join(rows)
    )


def _proof(proof: list[Mapping]) -> str:
    if not proof:
        return ""
    rows = ["| read as | same completions | accuracy |", "|---|---|---|"]
    rows += [
        f"| {r['read as']} | {r['same completions']} | {r['accuracy']:.1%} |"
        for r in proof
    ]
    text = "The exports, read by other software, on a part of these problems:\n\n"
    return text + "\n".join(rows)
