# Two commands do everything: `make course` and `make test`. `make` lists the rest.

PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: help course lab test check format export notebooks seeds results lock clean env

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

course: env  ## run notebooks 01 to 06 and show what the model learned
	@$(RUN) tools/run_course.py

lab: env  ## open the notebooks in JupyterLab
	@cd notebooks && ../$(RUN) -m jupyterlab

test: env check  ## everything that CI runs
	@$(RUN) -m pytest tests

check: env  ## lint, spelling, links, and whether notebooks and outputs belong together
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) tools/check_notebooks.py

format: env  ## let ruff put the code in order, then export the taught modules
	@$(RUN) -m ruff check --fix
	@$(RUN) -m ruff format
	@$(RUN) tools/export.py

export: env  ## write grpo_course/*.py from the notebooks that teach them
	@$(RUN) tools/export.py

notebooks: env export  ## run all (or ONLY="04 05") and keep the outputs in the notebooks
	@$(RUN) tools/rewrite_notebooks.py $(ONLY)

seeds: env  ## three seeds and two controls, written to results/ (about an hour)
	@$(RUN) tools/run_seeds.py

results: env  ## draw the README's picture and write its tables, from results/
	@$(RUN) tools/draw_results.py
	@$(RUN) tools/results.py README.md

lock: ## resolve requirements-cpu.in into requirements-cpu.txt (needs uv: pip install uv)
	@uv pip compile requirements-cpu.in -o requirements-cpu.txt --quiet \
	  --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --no-emit-package torch --custom-compile-command "make lock"
	@sed -i -E "s/ ;? ?(and )?platform_machine == 'x86_64' and sys_platform == 'linux'//" \
	  requirements-cpu.txt

clean:  ## remove the environment, but no stage that a notebook made
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis

env:
	@$(PYTHON) tools/setup_env.py
