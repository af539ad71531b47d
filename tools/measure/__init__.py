"""Measure: the experiments, and how fast and how large each step is."""
