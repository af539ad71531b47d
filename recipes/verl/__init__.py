"""The course's GRPO on verl and Ray, for several machines; see recipes/README.md."""
