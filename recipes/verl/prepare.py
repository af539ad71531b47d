"""What verl needs of the course: problems as parquet, settings as its arguments.

    python -m recipes.verl.prepare OUT --gpus 2

In the course's environment, after notebooks 01 to 03. verl then begins with the adapter
of the stage `sft`. Its sampler has no min_p; a profile that wants one is refused.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
from transformers import AutoTokenizer

from grpo_course.ground import files, stages
from grpo_course.ground.profile import Profile, ProfileError, load_profile
from grpo_course.model import TARGET_MODULES
from grpo_course.problems import held_out_problems
from recipes import HERE, course

MEANS = {"grpo": "seq-mean-token-mean", "dapo": "token-mean", "bnpo": "token-mean"}


def arguments(profile: Profile, sft: Path, out: Path, gpus: int, nodes: int) -> dict:
    """verl 0.9.1's arguments for a profile. Raises ProfileError where it has no such.

    sft: the folder of the stage. `gpus` are those of each of the `nodes`.
    """
    if profile.min_p:
        raise ProfileError("verl's sampler has no min_p: set COURSE_MIN_P=0.")
    if profile.own_reward or profile.loss_type not in MEANS:
        known = f"loss_type one of {', '.join(MEANS)}, and a reward of the course"
        raise ProfileError(f"For verl this recipe knows {known}.")
    room = profile.max_seq_length - profile.max_completion_length
    model, actor, rollout = (
        f"actor_rollout_ref.{part}." for part in ("model", "actor", "rollout")
    )
    return {
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": profile.scale_rewards == "group",
        "data.train_files": out / "train.parquet",
        "data.val_files": out / "test.parquet",
        "data.train_batch_size": profile.grpo_prompts,
        "data.max_prompt_length": room,
        "data.max_response_length": profile.max_completion_length,
        "data.seed": profile.seed,
        "reward.custom_reward_function.path": HERE / "verl" / "reward.py",
        model + "path": profile.model_source,
        model + "tokenizer_path": sft,
        model + "lora_adapter_path": sft,
        model + "lora_rank": profile.lora_rank,
        model + "lora_alpha": profile.lora_alpha,
        model + "target_modules": f"[{','.join(TARGET_MODULES)}]",
        model + "use_remove_padding": False,  # True needs flash-attn
        "+" + model + "override_config.attn_implementation": "sdpa",
        actor + "strategy": "fsdp2",
        actor + "ppo_mini_batch_size": profile.grpo_prompts,  # one update a step
        actor + "ppo_micro_batch_size_per_gpu": profile.grpo_batch_size,
        actor + "loss_agg_mode": MEANS[profile.loss_type],
        actor + "clip_ratio": profile.epsilon,
        actor + "clip_ratio_low": profile.epsilon,
        actor + "clip_ratio_high": profile.clip_high,
        actor + "use_kl_loss": profile.beta > 0,
        actor + "kl_loss_coef": profile.beta,
        actor + "optim.lr": profile.grpo_learning_rate,
        actor + "optim.lr_warmup_steps_ratio": profile.grpo_warmup_ratio,
        actor + "optim.weight_decay": profile.weight_decay,
        rollout + "name": "vllm",
        rollout + "n": profile.num_generations,
        rollout + "temperature": profile.temperature,
        rollout + "load_format": "safetensors",  # LoRA needs these two
        rollout + "layered_summon": True,
        rollout + "tensor_model_parallel_size": 1,
        rollout + "gpu_memory_utilization": profile.gpu_memory_utilization or 0.5,
        rollout + "max_model_len": profile.max_seq_length,
        rollout + "log_prob_micro_batch_size_per_gpu": profile.grpo_batch_size,
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": (
            profile.grpo_batch_size
        ),
        "trainer.n_gpus_per_node": gpus,
        "trainer.nnodes": nodes,
        "trainer.total_training_steps": profile.grpo_steps,
        "trainer.save_freq": profile.save_steps,
        "trainer.val_before_train": False,
        "trainer.logger": "[console,swanlab]",
        "trainer.project_name": "grpo-course",
        "trainer.experiment_name": "verl",
        "trainer.default_local_dir": out / "checkpoints",
    }


def rows(problems: list[dict], reward: str, split: str) -> pd.DataFrame:
    """Problems in verl's columns."""
    return pd.DataFrame(
        {
            "data_source": reward,
            "prompt": problem["prompt"],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": problem["answer"]},
            "extra_info": {"split": split, "index": index},
        }
        for index, problem in enumerate(problems)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--gpus", type=int, default=2, help="of each machine")
    parser.add_argument("--nodes", type=int, default=1, help="machines")
    options = parser.parse_args()
    profile, out = load_profile(), options.out.resolve()
    parent = stages.open_stage("sft", profile)
    told = arguments(profile, parent.path, out, options.gpus, options.nodes)
    held_out = held_out_problems(profile)
    tokenizer = AutoTokenizer.from_pretrained(parent.path)
    problems, dropped = course.problems(profile, parent, None, tokenizer, held_out)
    out.mkdir(parents=True, exist_ok=True)
    for split, some in (("train", problems), ("test", held_out)):
        rows(some, profile.reward, split).to_parquet(out / f"{split}.parquet")
    text = "".join(f"{name}={value}\n" for name, value in told.items())
    (out / "arguments.txt").write_text(text)
    made_of = {"data": files.digest(problems), "rows": dropped}
    (out / "made-of.json").write_text(json.dumps(made_of))
    print(f"{len(problems)} problems, {len(told)} arguments: {out}")


if __name__ == "__main__":
    main()
