# The whole set-up is here: `make demo` and `make test` build the environment they need.
PYTHON ?= python3
CORES ?= 2
CONFIG ?=
MIRROR ?=
VENV := .venv
BIN := $(VENV)/bin
PROFILE ?=
SNAKEMAKE := $(BIN)/snakemake $(if $(PROFILE),--workflow-profile $(PROFILE),--cores $(CORES)) \
	$(if $(CONFIG),--configfile $(CONFIG),) $(if $(MIRROR),--config mirror_dir=$(MIRROR),)

.PHONY: help demo exports notebook test test-slurm mutants lint format reference envs docs resume init run doctor plan report viewer clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "make %-11s %s\n", $$1, $$2}'
	@echo
	@echo "CONFIG=my.yaml  PROFILE=profiles/slurm  MIRROR=folder of raw files  CORES=2"

$(VENV)/.run: envs/requirements.txt envs/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -r envs/requirements.txt -c envs/constraints.txt
	touch $@

$(VENV)/.dev: $(VENV)/.run envs/requirements-dev.txt envs/requirements-spatialdata.txt
	$(BIN)/python -m pip install -q -r envs/requirements-dev.txt -c envs/constraints.txt
	touch $@

$(VENV)/.docs: $(VENV)/.run envs/requirements-docs.txt
	$(BIN)/python -m pip install -q -r envs/requirements-docs.txt -c envs/constraints.txt
	touch $@

demo: $(VENV)/.run ## everything on a small simulated cohort, and its report
	$(BIN)/snakemake --workflow-profile profiles/ci --cores $(CORES)
	$(BIN)/snakemake --workflow-profile profiles/ci --cores 1 --report report.html
	@$(BIN)/python scripts/tools/finish_report.py report.html
	@echo
	@cat results/tables/demo/summary.md
	@echo
	@echo "The report: $(CURDIR)/report.html"

init: $(VENV)/.run ## a config and a sheet to fill in: NAME=mine SOURCE=files|visium|xenium|slides TASK=cell_types|label_table|genes|cells|slides
	@$(BIN)/python scripts/tools/start_config.py $(or $(NAME),mine) --source "$(SOURCE)" --task "$(TASK)"

doctor: $(VENV)/.run ## before a run: can it succeed here?
	@$(BIN)/python scripts/tools/doctor.py $(CONFIG) $(if $(MIRROR),--config mirror_dir=$(MIRROR),)

run: $(VENV)/.run ## the config, after a look at whether it can succeed
	@$(BIN)/python scripts/tools/doctor.py $(CONFIG) $(if $(MIRROR),--config mirror_dir=$(MIRROR),)
	$(SNAKEMAKE)

report: $(VENV)/.run ## report.html of a finished run
	$(SNAKEMAKE) --report report.html
	@$(BIN)/python scripts/tools/finish_report.py report.html

viewer: $(VENV)/.run ## results/viewer: a page per section, with slide, predictions and labels
	$(SNAKEMAKE) -- viewer

exports: $(VENV)/.run ## results/exports: the same sections for scanpy and squidpy
	$(SNAKEMAKE) -- exports

notebook: $(VENV)/.run ## `import histoloom` and a kernel for Jupyter
	$(BIN)/python -m pip install -q ipykernel -c envs/constraints.txt
	$(BIN)/python -m pip install -q --no-deps -e .
	$(BIN)/python -m ipykernel install --user --name histoloom

test: $(VENV)/.dev ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev ## ruff, snakefmt, mypy, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/mypy
	$(BIN)/mypy --allow-untyped-defs --allow-incomplete-defs --disable-error-code name-defined scripts/*.py
	$(BIN)/snakemake --lint

format: $(VENV)/.dev ## ruff and snakefmt, in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

reference: $(VENV)/.run ## docs/reference, from the schemas
	$(BIN)/python scripts/tools/write_config_reference.py

envs: $(VENV)/.dev ## the conda files, from envs/rules.toml
	$(BIN)/python scripts/tools/write_conda_envs.py

docs: $(VENV)/.docs reference ## the manual as pages, in site/
	$(BIN)/python -m mkdocs build --quiet

resume: $(VENV)/.run ## after a crash: end orphaned jobs of this folder, unlock, run on
	-$(BIN)/python scripts/tools/run_summary.py
	$(BIN)/python scripts/tools/clear_run.py
	$(SNAKEMAKE) --unlock
	$(SNAKEMAKE)

plan: $(VENV)/.run ## what a run would submit: jobs by rule, GPU hours, bytes
	$(BIN)/python scripts/tools/plan_run.py $(wordlist 2,99,$(SNAKEMAKE))

test-slurm: $(VENV)/.dev ## all faults on a real SLURM; needs root and Debian's slurm packages
	HISTOLOOM_SLURM=all $(BIN)/python -m pytest tests/slurm

mutants: $(VENV)/.dev ## how many small changes of the science code the tests notice: MINUTES=15 SEED=0
	$(BIN)/python tests/mutants.py --minutes $(or $(MINUTES),15) --seed $(or $(SEED),0)

clean: ## remove everything but the raw downloads
	find results -mindepth 1 -maxdepth 1 ! -name sources -exec rm -rf {} + 2>/dev/null || true
	rm -rf logs benchmarks report.html
