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

.PHONY: demo test test-slurm lint format docs resume doctor plan report clean

$(VENV)/.run: envs/requirements.txt envs/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -r envs/requirements.txt -c envs/constraints.txt
	touch $@

$(VENV)/.dev: $(VENV)/.run envs/requirements-dev.txt envs/requirements-spatialdata.txt
	$(BIN)/python -m pip install -q -r envs/requirements-dev.txt -c envs/constraints.txt
	touch $@

# The whole pipeline on the embedded simulated cohort, and its report.
demo: $(VENV)/.run
	$(BIN)/snakemake --workflow-profile profiles/ci --cores $(CORES)
	$(BIN)/snakemake --workflow-profile profiles/ci --cores 1 --report report.html
	@echo
	@cat results/tables/demo/summary.md
	@echo
	@echo "The report: $(CURDIR)/report.html"

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/mypy
	$(BIN)/snakemake --lint

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

# config/README.md's reference, from the schemas.
docs: $(VENV)/.run
	$(BIN)/python scripts/tools/write_config_reference.py

# After a crash: end orphaned jobs of this folder, unlock, rerun.
resume: $(VENV)/.run
	-$(BIN)/python scripts/tools/run_summary.py
	$(BIN)/python scripts/tools/clear_run.py
	$(SNAKEMAKE) --unlock
	$(SNAKEMAKE)

# Before a run: can it succeed here? Gates, tokens, bytes, disk, GPU, programs, versions; exit 1 if not.
doctor: $(VENV)/.run
	@$(BIN)/python scripts/tools/doctor.py $(CONFIG) $(if $(MIRROR),--config mirror_dir=$(MIRROR),)

# What a run would submit: jobs by rule, GPU hours, bytes.
plan: $(VENV)/.run
	$(BIN)/python scripts/tools/plan_run.py $(wordlist 2,99,$(SNAKEMAKE))

# All faults on a real SLURM on this machine; needs root and Debian's slurm packages.
test-slurm: $(VENV)/.dev
	HISTOLOOM_SLURM=all $(BIN)/python -m pytest tests/slurm

report: $(VENV)/.run
	$(SNAKEMAKE) --report report.html

# Everything but the raw downloads.
clean:
	find results -mindepth 1 -maxdepth 1 ! -name sources -exec rm -rf {} + 2>/dev/null || true
	rm -rf logs benchmarks report.html
