"""GRPO on several GPUs: notebook 05 without its lessons, a process for each GPU.

    torchrun --nproc-per-node 2 -m recipes.grpo recipes/ddp.toml
    python -m recipes.grpo recipes/server.toml
    torchrun --nproc-per-node 2 -m recipes.grpo recipes/fsdp2.toml

From the repository's root, after notebooks 01 to 03. Profile, stage `sft`, problems,
rewards, settings and the stage `grpo` that it makes are those of notebook 05; the file
says only how the work is shared. The same command goes on with a run that was killed,
from its last checkpoint.
"""

import os
import sys
import time
import tomllib
import traceback
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

from recipes.guard import Guard

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def main(recipe: dict, guard: Guard, here: SimpleNamespace) -> None:
    """Make the stage `grpo`, if it is not there, and measure it."""
    from grpo_course.ground import checkpoints, files, stages
    from grpo_course.ground.profile import load_profile
    from recipes import course, server

    guard.allow(recipe["start_s"], "the start")
    if gpus := recipe.get("trainer_gpus"):
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    course.load_libraries(recipe["engine"], int(os.environ.get("LOCAL_RANK", 0)))
    from accelerate import PartialState
    from transformers import AutoTokenizer

    from grpo_course.gauges import evaluation
    from grpo_course.model import load_adapter
    from grpo_course.problems import held_out_problems

    begun, profile = time.monotonic(), load_profile()
    parent = stages.open_stage("sft", profile)
    if RANK == 0 and "server" in recipe:
        server.start(recipe["server"], profile, stages.home() / "vllm-server.log")
    if not profile.on_gpu:  # else "cpu:0", for which no checkpoint can be loaded
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    limit = timedelta(seconds=recipe["start_s"])
    state = PartialState(cpu=not profile.on_gpu, timeout=limit)
    model = course.load(profile, parent, recipe["engine"])
    tokenizer = AutoTokenizer.from_pretrained(parent.path)
    held_out = held_out_problems(profile)
    with state.main_process_first():  # the others read what the first has sampled
        rows = course.problems(profile, parent, model, tokenizer, held_out)
    made_of = {"data": files.digest(rows[0])}
    here.folder = checkpoints.folder("grpo", profile, parent, **made_of)
    if grpo := stages.finished("grpo", profile, parent, **made_of):
        print("The stage grpo is there already: nothing to train.")
        load_adapter(model, grpo.path)
        if recipe["engine"] == "trl":  # no trainer places it
            model.to(state.device)
    else:
        found = train(recipe, guard, here, state, profile, model, tokenizer, *rows)
        if RANK == 0:
            weights, metrics = found
            with stages.write_stage("grpo", profile, parent, **made_of) as draft:
                course.save(model, weights, tokenizer, draft.path, profile)
                draft.metrics = metrics
    question = (model, tokenizer, held_out, profile)
    if RANK == 0:
        measure(begun, profile, parent, made_of, question)
    elif recipe["trainer"].get("fsdp") and not grpo:
        evaluation.report(*question)  # a model in parts answers with all of them


def train(recipe, guard, here, state, profile, model, tokenizer, problems, dropped):
    """Train; the adapter's weights, whole, and what the stage's manifest says."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    from grpo_course import grpo_training, rewards
    from grpo_course.gauges import memory
    from grpo_course.gauges.tracking import tracking_callbacks
    from grpo_course.ground import checkpoints, own_rewards
    from grpo_course.scale_out import gathered_adapter, share_of
    from recipes import course

    own = own_rewards.tried(profile.reward)[1] if profile.own_reward else None
    paid = own or rewards.REWARD_FUNCTIONS[profile.reward]
    wanted = grpo_training.sampling(profile) | grpo_training.optimization(profile)
    wanted |= grpo_training.algorithm(profile, len(paid))
    wanted |= share_of(profile, WORLD) | recipe["trainer"]
    more = course.reporting(profile, here.folder) | {"ddp_timeout": recipe["step_s"]}
    config = GRPOConfig(**wanted, **more)
    changed = {n for n, value in wanted.items() if getattr(config, n, None) != value}
    if changed := changed - course.KNOWN - recipe["trainer"].keys():
        raise RuntimeError(f"The configuration was changed: {changed}")
    memory.check("grpo", profile, model)
    health, clock = course.watched(profile, guard, recipe["step_s"], state)
    if config.fsdp and not profile.on_gpu:
        course.let_cpus_shard()
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=paid + grpo_training.MONITORS,
        args=config,
        train_dataset=Dataset.from_list(problems),
        callbacks=[health, clock]
        + (tracking_callbacks(profile, "grpo") if RANK == 0 else []),
    )
    trainer.remove_callback(PrinterCallback)
    if config.fsdp:  # until each has ended its completions, all go on together
        model.get_base_model()._is_fsdp_managed_module = True
    seconds = course.timed(trainer)
    if RANK == 0:
        checkpoints.claim(here.folder, profile.grpo_steps)
    state.wait_for_everyone()
    guard.allow(recipe["start_s"], "the first step")
    with memory.watch("grpo", profile) as usage:
        trainer.train(resume_from_checkpoint=checkpoints.latest(here.folder))
    weights, digests = gathered_adapter(model)
    if len({*digests}) > 1:
        raise RuntimeError(f"The processes hold different adapters: {digests}")
    log = [entry for entry in trainer.state.log_history if "reward" in entry]
    metrics = {"log_history": log, "usage": usage}
    metrics |= {"last_step": grpo_training.last_step}
    metrics |= {"rows": dropped, "training": wanted, "engine": recipe["engine"]}
    metrics |= {"processes": WORLD, "adapters": digests, "way": here.way}
    metrics |= {"seconds": seconds | {"step": clock.steps}}
    return weights, metrics


def measure(begun, profile, parent, made_of, question) -> None:
    """Let the trained model answer the held-out problems, as notebook 05 does."""
    from grpo_course.gauges import evaluation
    from grpo_course.gauges.tracking import finish_tracking
    from grpo_course.ground import stages

    grpo = stages.finished("grpo", profile, parent, **made_of)
    asked = {"conditions": evaluation.conditions(profile)}
    if asked.items() <= grpo.metrics.items():
        return
    found = evaluation.report(*question, adapter=str(grpo.path))
    minutes = (time.monotonic() - begun) / 60
    found |= asked | {"minutes": grpo.metrics.get("minutes", minutes)}
    finish_tracking(stages.write_metrics(grpo, found), parent)
    greedy = found["evaluation"]["greedy"]
    print(f"{greedy['accuracy']:.1%} of {greedy['n']} held-out problems are right.")


def way_on(folder: Path | None) -> str:
    """How to go on after an end that was not meant; "" if nothing was begun."""
    from grpo_course.ground import checkpoints

    if folder is None:
        return ""
    last = checkpoints.latest(folder)
    where = f"goes on from {last.name}" if last else "begins again"
    return f"The same command {where}."


if __name__ == "__main__":
    file = Path(*sys.argv[1:2])
    if not file.is_file():
        sys.exit("Name a recipe: recipes/ddp.toml, server.toml or fsdp2.toml there.")
    here = SimpleNamespace(folder=None, way=file.stem)
    guard = Guard(f"Process {RANK} of {WORLD}", lambda: way_on(here.folder))
    if RANK:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # one process speaks
    try:
        main(tomllib.loads(file.read_text()), guard, here)
    except Exception as error:
        time.sleep(3 * (WORLD > 1))  # did it fail because another process has ended?
        if type(error).__module__.partition(".")[0] not in ("grpo_course", "recipes"):
            traceback.print_exc()
        guard.end(f"failed: {str(error).rstrip('.')}")
    sys.stdout.flush()
    os._exit(0)  # vLLM's threads would keep the process
