"""Make the tiny model of models/tiny-qwen3: its text, its tokenizer, its weights."""
