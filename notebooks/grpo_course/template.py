"""Draft: will be exported from 02_chat_template.ipynb with the same names."""

REASONING_START = "<start_working_out>"
REASONING_END = "<end_working_out>"
SOLUTION_START = "<SOLUTION>"
SOLUTION_END = "</SOLUTION>"

SYSTEM_PROMPT = (
    "Solve the problem you are given.\n"
    f"Write your working between {REASONING_START} and {REASONING_END}.\n"
    f"Then give only the final answer between {SOLUTION_START} and {SOLUTION_END}."
)

CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] == 'system' -%}"
    "{{- messages[0]['content'] + eos_token -}}"
    "{%- set turns = messages[1:] -%}"
    "{%- else -%}"
    "{{- " + repr(SYSTEM_PROMPT) + " + eos_token -}}"
    "{%- set turns = messages -%}"
    "{%- endif -%}"
    "{%- for message in turns -%}"
    "{%- if message['role'] == 'user' -%}{{- message['content'] -}}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- message['content'] + eos_token -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '" + REASONING_START + "' -}}{%- endif -%}"
)


def apply_template(tokenizer):
    """Give a tokenizer the course's chat template; returns the tokenizer."""
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
