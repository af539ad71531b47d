# Two commands do everything: `make course` and `make test`. `make` lists the rest.

PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: help course lab watch test check format export notebooks seeds experiments
.PHONY: results screenshots badges llama lock audit clean env

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

seeds: env  ## three seeds and the controls, measured for results/ (about an hour)
	@$(RUN) tools/run_experiments.py course format random sft-more

experiments: env  ## all that the README and 04 and 05 show (hours; JOBS=16: sooner)
	@$(RUN) tools/run_experiments.py --jobs $(or $(JOBS),1)

results: env  ## draw the pictures and write the README's tables, from results/
	@$(RUN) tools/draw_road.py
	@$(RUN) tools/draw_results.py
	@$(RUN) tools/results.py README.md
	@$(RUN) tools/gpu_results.py README.md

LOCK := uv pip compile --quiet --universal --generate-hashes --no-annotate \
  --custom-compile-command "make lock"
ONE_PLATFORM := ;? ?(and )?platform_machine == 'x86_64' and sys_platform == 'linux'

lock:  ## pin what requirements*.in ask for (needs uv); delete a .txt to renew its pins
	@$(LOCK) requirements.in -o requirements.txt --python-version 3.12
	@$(LOCK) requirements-cpu.in -o requirements-cpu.txt --python-version 3.11 \
	  --override requirements-cpu.overrides --no-emit-package torch
	@sed -i -E "s/ $(ONE_PLATFORM)//" requirements.txt requirements-cpu.txt

badges: env  ## write badges and set-up cells for Colab and Kaggle, from pyproject.toml
	@$(RUN) tools/write_setup_cells.py

watch: env  ## open SwanLab's dashboard of your runs, on this machine only
	@$(RUN) tools/watch.py

llama: env  ## build llama.cpp once, for the GGUF formats of notebook 06
	@$(RUN) tools/build_llama_cpp.py

screenshots: env  ## pictures of the dashboard for the notebooks (needs chromium)
	@$(RUN) tools/screenshots.py

audit:  ## look all pins up in a list of known vulnerabilities (needs uv and internet)
	@grep -ho '^torch==[^ ]*' requirements-cpu.in > .torch-pin
	@uvx pip-audit --strict --disable-pip --no-deps -r .torch-pin; \
	  code=$$?; rm .torch-pin; exit $$code
	@for lock in requirements.txt requirements-cpu.txt; do echo $$lock; \
	  uvx pip-audit --strict --disable-pip --require-hashes -r $$lock || exit 1; done

clean:  ## remove the environment, but no stage that a notebook made
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis

env:
	@$(PYTHON) tools/setup_env.py
