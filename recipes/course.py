"""What notebook 05 does in its cells, for a process among several.

Its monitors and the settings that decide what is learned are `grpo_training`, which 05
exports; tests/test_scale_out.py holds the problems against the notebook's own.
"""

import math
import os
import time

from grpo_course.ground import session, versions

KNOWN = {"optim", "top_k"}  # 05 says why these two come out otherwise


def load_libraries(engine: str, local: int) -> None:
    """Import Unsloth where it is the engine, or where there is no GPU: TRL's own head
    needs one. Each process keeps what it compiles in folders of its own."""
    session.prepare()
    for variable in session.CACHES if local else ():
        os.environ[variable] += f"-{local}"
    with session.quiet():
        if engine == "unsloth" or not versions.gpus():
            import unsloth  # noqa: F401  # first: it patches the libraries below


def load(profile, parent, engine: str):
    """The model with the adapter of the stage `sft`; the trainer places it."""
    if engine == "unsloth":
        from grpo_course.model import add_adapter, load_adapter, load_base_model

        with session.quiet():
            model = add_adapter(load_base_model(profile)[0], profile)
        return load_adapter(model, parent.path)
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from grpo_course.ground.profile import ProfileError
    from grpo_course.scale_out import exact_unmerge

    if profile.load_in_4bit:
        raise ProfileError("4 bits go with ddp.toml only: set COURSE_LOAD_IN_4BIT=0.")

    dtype = getattr(torch, profile.dtype)
    base = AutoModelForCausalLM.from_pretrained(profile.model_source, dtype=dtype)
    model = PeftModel.from_pretrained(base, parent.path, is_trainable=True)
    return exact_unmerge(model)


def problems(profile, parent, model, tokenizer, held_out) -> tuple[list[dict], dict]:
    """The problems that GRPO trains on, and how many rows each filter dropped."""
    import numpy as np

    from grpo_course.gauges import evaluation
    from grpo_course.ground import data, files, stages
    from grpo_course.own_answers import sample_answers
    from grpo_course.problems import usable_problems

    def ask(prompts):
        if not hasattr(model, "vllm_engine") and profile.on_gpu:
            raise RuntimeError(
                "Too slow without vLLM in this process: let notebook 05, or ddp.toml, "
                "sample the pass rates first, or set COURSE_PASS_SAMPLES=0."
            )
        how = {"sampled": True, "adapter": str(parent.path)}
        return evaluation.complete(model, tokenizer, prompts, profile, **how)

    rows = data.load_rows(profile.grpo_data, "grpo")
    kept, dropped = usable_problems(rows, held_out, profile.own_reward)
    how = {"tokenize": False, "add_generation_prompt": True}
    texts = [tokenizer.apply_chat_template(p["prompt"], **how) for p in kept]
    sizes = [len(tokenizer(t, add_special_tokens=False).input_ids) for t in texts]
    room = profile.max_seq_length - profile.max_completion_length
    longest = min(int(np.quantile(sizes, 0.9)), room)
    fitting = [i for i, size in enumerate(sizes) if size <= longest]
    if profile.pass_samples:
        fitting = fitting[: 2 * profile.grpo_steps * profile.grpo_prompts]
        texts = [texts[i] for i in fitting]
        key = files.digest([texts, profile.pass_samples, profile.min_p])[:12]
        path = stages.home() / "pass-rates" / f"{parent.digest[:12]}-{key}.jsonl"
        found = []
        sampled = sample_answers(texts, profile.pass_samples, ask, path)
        for i, completions in zip(fitting, sampled, strict=True):
            answers = [kept[i]["answer"]] * len(completions)
            right = sum(evaluation.mark(completions, answers).correct)
            found += [i] * (0 < right < len(completions))
        fitting = found
    if len(fitting) < profile.grpo_prompts:
        needed = f"a step needs {profile.grpo_prompts}"
        raise RuntimeError(f"{len(fitting)} problems are left and {needed}: see 05.")
    return [kept[i] for i in fitting], dropped


def reporting(profile, folder) -> dict:
    """The other arguments: where files go, and what is printed."""
    return {
        "output_dir": str(folder),
        "save_strategy": "steps",
        "save_steps": profile.save_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        "log_completions": True,
        "num_completions_to_print": 0,
        "report_to": "none",
        "disable_tqdm": True,
    }


def watched(profile, guard, seconds: float, state):
    """05's health callback for several processes, and a clock: two callbacks.

    Only the first process seals a checkpoint, when all have written their part. The
    clock's `seconds` has one number a step; a step that takes longer than `seconds`
    ends the process.
    """
    from transformers import TrainerCallback

    from grpo_course.gauges.health import health_callback

    health = health_callback(profile)
    seal = health.on_save

    def on_save(*arguments, **more):
        state.wait_for_everyone()
        if state.is_main_process:
            seal(*arguments, **more)
        state.wait_for_everyone()

    health.on_save = on_save

    class Clock(TrainerCallback):
        def __init__(self):
            self.steps = []

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            parts = [hasattr(weight, "full_tensor") for weight in model.parameters()]
            if args.fsdp and not all(parts):
                raise RuntimeError("FSDP2 is not at work: each process has it all.")

        def on_step_begin(self, args, state, control, **kwargs):
            self.began = time.monotonic()

        def on_step_end(self, args, state, control, **kwargs):
            self.steps.append(time.monotonic() - self.began)
            guard.allow(seconds, f"step {state.global_step + 1}")

        def on_train_end(self, args, state, control, **kwargs):
            guard.allow(math.inf, "the end")

    return health, Clock()


def let_cpus_shard() -> None:
    """Torch divides a model over CPUs, too, but accelerate (1.15) asks it on GPUs only,
    and would say nothing. To be called right before the trainer is made."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def timed(trainer) -> dict[str, list[float]]:
    """Seconds of each sampling, and of each hand-over of weights to vLLM (a part of
    it), in lists that grow as the trainer works."""
    found = {}

    def time_calls(owner, method):
        call, seconds = getattr(owner, method), found.setdefault(method.strip("_"), [])

        def timed_call(*arguments, **more):
            begun = time.monotonic()
            try:
                return call(*arguments, **more)
            finally:
                seconds.append(time.monotonic() - begun)

        setattr(owner, method, timed_call)

    time_calls(trainer, "_generate")
    if sampler := getattr(trainer, "vllm_generation", None):
        time_calls(sampler, "sync_weights")
    return found


def save(model, weights, tokenizer, folder, profile) -> None:
    """Write the adapter from its whole weights, which FSDP's model has in parts."""
    from types import SimpleNamespace

    from grpo_course.model import save_adapter

    def save_pretrained(folder):
        model.save_pretrained(folder, state_dict=weights)

    whole = SimpleNamespace(save_pretrained=save_pretrained)
    save_adapter(whole, tokenizer, folder, profile)
