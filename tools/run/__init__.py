"""Run: make the environment, execute, export and check the notebooks."""
