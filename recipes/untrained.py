"""The stages up to `sft` with an adapter that nobody trained: in seconds, any model.

    COURSE_MODEL_NAME=/models/8b python -m recipes.untrained

For tests, and for measuring speed with random weights (tools.measure.random_model).
What begins from these stages learns nothing of use.
"""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from grpo_course import template
from grpo_course.ground import stages
from grpo_course.ground.profile import load_profile
from grpo_course.model import TARGET_MODULES
from recipes import course


def main() -> None:
    profile, parent = load_profile(), None
    tokenizer = AutoTokenizer.from_pretrained(profile.model_source)
    template.apply_template(tokenizer)
    with torch.device("meta"):  # only the shapes
        base = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(profile.model_source)
        )
        how = {"r": profile.lora_rank, "lora_alpha": profile.lora_alpha}
        how |= {"target_modules": TARGET_MODULES, "task_type": "CAUSAL_LM"}
        model = get_peft_model(base, LoraConfig(**how))
    random = torch.Generator().manual_seed(profile.seed)
    weights = {
        name: torch.randn(weight.shape, generator=random) * 1e-3
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    for name in ("base", "template", "sft"):
        with stages.write_stage(name, profile, parent) as draft:
            course.save(model, weights, tokenizer, draft.path, profile)
        parent = stages.finished(name, profile, parent)
        stages.write_metrics(parent, {"untrained": True})
        print(f"stage {name} {parent.digest[:12]}, untrained")


if __name__ == "__main__":
    main()
