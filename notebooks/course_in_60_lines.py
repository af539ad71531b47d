"""The whole course in sixty lines: `python notebooks/course_in_60_lines.py`.

A tiny model learns, within two minutes on two cores; what to change for Qwen3-8B on one
GPU with 80 GB stands behind each value. What a line is for, the notebooks teach.
"""

from pathlib import Path

from grpo_course.ground.session import quiet

with quiet():
    import unsloth  # noqa: F401  # first: it patches the libraries below
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
import torch
from datasets import Dataset
from unsloth import FastLanguageModel

from grpo_course import rewards, sft_data, template
from grpo_course.ground.data import load_rows
from grpo_course.ground.generate import generate
from grpo_course.marking import answers_equal
from grpo_course.problems import as_problem, usable_problems

MODEL = str(Path(__file__).parents[1] / "models" / "tiny-qwen3")  # "Qwen/Qwen3-8B"
DTYPE, LENGTH, ANSWER = torch.float32, 384, 128  # torch.bfloat16, 2048, 1024 tokens
VLLM = {}  # dict(fast_inference=True, max_lora_rank=32, gpu_memory_utilization=0.7)
SFT_DATA = "embedded:sft"  # "unsloth/OpenMathReasoning-mini:cot"
GRPO_DATA = "embedded:grpo"  # "open-r1/DAPO-Math-17k-Processed:en:train"
TEST_DATA, N = "embedded:test", 100  # "openai/gsm8k:main:test", 300
SFT = dict(num_train_epochs=3, per_device_train_batch_size=8)  # 2, 1
GRPO = dict(max_steps=40, per_device_train_batch_size=32, num_generations=8)  # 300, 64
SFT_RATE, GRPO_RATE = 2e-3, 1e-3  # 2e-4, 5e-6
COMMON = dict(use_cpu=True, bf16=False, report_to="none")  # False, True, "swanlab"
COMMON |= dict(save_strategy="no", logging_strategy="no")  # "steps"

# 01, 02: the base model, a LoRA adapter, and a template that opens the reasoning
model, tokenizer = FastLanguageModel.from_pretrained(
    MODEL, max_seq_length=LENGTH, dtype=DTYPE, load_in_4bit=False, **VLLM
)
parts = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
model = FastLanguageModel.get_peft_model(
    model, r=32, lora_alpha=64, target_modules=parts, use_gradient_checkpointing=False
)  # use_gradient_checkpointing="unsloth"
tokenizer.chat_template = template.CHAT_TEMPLATE


# 04: two rewards, in TRL's form
def well_formed(completions, **_):
    texts = map(rewards.completion_text, completions)
    return [float(template.is_well_formed(text)) for text in texts]


def right(completions, answer, **_):
    texts = map(rewards.completion_text, completions)
    found = [template.extract_solution(text) or "" for text in texts]
    pairs = zip(found, answer, strict=True)
    return [float(answers_equal(mine, true)) for mine, true in pairs]


def show_accuracy(stage):
    """Greedy, on problems that no training sees."""
    form = {"tokenize": False, "add_generation_prompt": True}
    prompts = [tokenizer.apply_chat_template(p["prompt"], **form) for p in held_out]
    answers = generate(model, tokenizer, prompts, max_new_tokens=ANSWER)
    marks = right([a.text for a in answers], [p["answer"] for p in held_out])
    print(f"{stage}: {sum(marks):.0f} of {len(marks)} held-out problems right")


held_out = [as_problem(row) for row in load_rows(TEST_DATA, "grpo")][:N]
show_accuracy("base")

# 03: supervised warm-up: a few hundred examples teach the form
rows, _ = sft_data.prepare_rows(
    load_rows(SFT_DATA, "sft"), tokenizer, LENGTH // 2, held_out
)
SFTTrainer(
    model=model,
    processing_class=tokenizer,
    args=SFTConfig(**SFT, **COMMON, learning_rate=SFT_RATE, completion_only_loss=True),
    train_dataset=Dataset.from_list(
        [sft_data.tokenise_row(r, tokenizer) for r in rows]
    ),
).train()
show_accuracy("SFT")

# 05: GRPO: groups of eight answers, each measured against its siblings
problems, _ = usable_problems(load_rows(GRPO_DATA, "grpo"), held_out)
how = dict(max_completion_length=ANSWER, learning_rate=GRPO_RATE, min_p=0.1)
GRPOTrainer(
    model=model,
    processing_class=tokenizer,
    args=GRPOConfig(**GRPO, **COMMON, **how),
    train_dataset=Dataset.from_list(problems),
    reward_funcs=[well_formed, right],
).train()
show_accuracy("GRPO")

# 06: base and adapter in one, for vLLM and others
model.save_pretrained_merged("my-model", tokenizer, save_method="merged_16bit")
