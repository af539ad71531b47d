# Two commands do everything: `make course` and `make test`. `make` lists the rest.

PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: help course try arena lab watch test check format export notebooks seeds
.PHONY: experiments bench flight results badges release-check llama lock audit clean env

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

course: env  ## run notebooks 01 to 06 and show what the model learned
	@$(RUN) -m tools.run.run_course

try: env  ## from sft on: fewer steps of GRPO (REWARD=..., STEPS=15) beside the last try
	@$(if $(REWARD),COURSE_REWARD='$(REWARD)') $(if $(STEPS),COURSE_GRPO_STEPS=$(STEPS)) \
	  $(RUN) -m tools.run.try_it

arena: env  ## what does a reward (REWARD=./file.py:name) pay that is wrong? Appendix 04c
	@$(if $(REWARD),COURSE_REWARD='$(REWARD)') $(RUN) -m tools.run.arena

lab: env  ## open the notebooks in JupyterLab
	@cd notebooks && ../$(RUN) -m jupyterlab

test: env check  ## everything that CI runs
	@$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests

check: env  ## lint, spelling, links, and whether notebooks and outputs belong together
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@PYTHONPATH=notebooks .venv/bin/lint-imports --no-cache
	@.venv/bin/codespell *.md models/*/*.md notebooks recipes/*.* recipes/verl/*.py tools tests
	@$(RUN) -m tools.run.check_notebooks

format: env  ## let ruff put the code in order, then export the taught modules
	@$(RUN) -m ruff check --fix
	@$(RUN) -m ruff format
	@$(RUN) -m tools.run.export

export: env  ## write grpo_course/*.py from the notebooks that teach them
	@$(RUN) -m tools.run.export

notebooks: env export  ## run all (or ONLY="04 05") and keep the outputs in the notebooks
	@$(RUN) -m tools.run.run_course --keep $(ONLY)

RUNS := $(RUN) -m tools.measure.run_experiments
ALONE = $(if $(filter-out 1,$(JOBS)),env OMP_NUM_THREADS=1 TERM=dumb)

seeds: ONLY = course format random sft-more
seeds: experiments  ## three seeds and the controls, measured for results/ (about an hour)

experiments: env  ## all that the README and 04 and 05 show (hours; JOBS=16: sooner)
	@$(RUNS) --list $(ONLY) | xargs -r -P $(or $(JOBS),1) -n 1 $(ALONE) $(RUNS); \
	  code=$$?; $(RUNS) && exit $$code

bench: env  ## is it as fast as it was? ratios, beside the last ones (KEEP=1 keeps them)
	@$(RUN) -m tools.measure.ratios $(if $(KEEP),--keep)

flight: env  ## record the four runs of the flight recorder, after `make seeds`
	@for run in course sick-cold sick-rate sick-limit; do \
	  $(RUN) -m tools.measure.flight $$run || exit 1; done

results: env  ## draw the pictures and write the README's tables, from results/
	@$(RUN) -m tools.report.draw_road
	@$(RUN) -m tools.report.draw_results
	@$(RUN) -m tools.report.needs
	@$(RUN) -m tools.report.draw_flight
	@$(RUN) -m tools.report.results

LOCK := $(RUN) -m uv pip compile --quiet --universal --generate-hashes --no-annotate \
  --custom-compile-command "make lock" --override requirements.overrides
ONE_PLATFORM := ;? ?(and )?platform_machine == 'x86_64' and sys_platform == 'linux'

lock: env  ## pin what requirements*.in ask for; delete a .txt to renew its pins
	@$(LOCK) requirements.in -o requirements.txt --python-version 3.12
	@$(LOCK) requirements-platform.in -o requirements-platform.txt --python-version 3.12 \
	  --override requirements-platform.overrides -c requirements.txt
	@$(LOCK) requirements-cpu.in -o requirements-cpu.txt --python-version 3.11 \
	  --override requirements-cpu.overrides --no-emit-package torch
	@sed -i -E "s/ $(ONE_PLATFORM)//" requirements*.txt

badges: env  ## write badges and set-up cells for Colab and Kaggle, from pyproject.toml
	@$(RUN) -m tools.run.write_setup_cells

release-check: env check  ## before publishing: `make check`, and whose address it is
	@! grep '^repository.*/OWNER/' pyproject.toml || { echo "Put your own address for" \
	  "OWNER there, run \`make badges\`, and set the tag on what you publish."; exit 1; }

SWANLOG = $(patsubst ~/%,$(HOME)/%,$(or $(COURSE_HOME),course-home))/swanlog

watch: env  ## open SwanLab's dashboard of your runs, on this machine only
	@test -f "$(SWANLOG)/runs.swanlab" || \
	  { echo "$(SWANLOG) has no experiment yet: run notebook 03 first."; exit 1; }
	@.venv/bin/swanlab watch "$(SWANLOG)" --host 127.0.0.1 --port 5092

llama: env  ## build llama.cpp once, for the GGUF formats of notebook 06
	@$(RUN) -m tools.run.build_llama_cpp

audit: env  ## look all pins up in a list of known vulnerabilities (needs internet)
	@grep -ho '^torch==[^ ]*' requirements-cpu.in > .torch-pin
	@.venv/bin/uvx pip-audit --strict --disable-pip --no-deps -r .torch-pin; \
	  code=$$?; rm .torch-pin; exit $$code
	@for lock in requirements*.txt; do echo $$lock; \
	  .venv/bin/uvx pip-audit --strict --disable-pip --require-hashes -r $$lock || exit 1; done

clean:  ## remove the environment, but no stage that a notebook made
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis

env:
	@PYTHON="$(PYTHON)" sh tools/run/make_env.sh
