# make demo [SEEDS="0 1 2"]   from a bare clone to a scored adaptation
# make test                   from a bare clone to a green test run
# make study-small            the study's complete matrix on drawn micrographs, small networks
# make test-faults [RUNS=200] broken runs, 25 by default, each continued and compared with an undisturbed one
# make test-slurm             jobs of launch/slurm on a real SLURM (root on Debian; it installs SLURM), ten minutes
# make fuzz                   10,000 damaged pictures, masks and domains.toml files each, five minutes
# make lint                   ruff: rules and format
SHELL := /bin/bash
PYTHON ?= python3
SEEDS ?= 0
BIN := .venv/bin

.PHONY: demo study-small test test-faults test-slurm fuzz lint clean

demo: .venv/.installed
	SEEDS="$(SEEDS)" PATH="$(CURDIR)/$(BIN):$$PATH" bash launch/demo.sh

study-small: .venv/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash launch/study_small.sh

test-faults: .venv/.installed-dev
	$(BIN)/python tests/faults/kill_and_resume.py $(RUNS)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slurm: .venv/.installed-dev
	tests/slurm/run.sh -s

fuzz: .venv/.installed-dev
	FUZZ=10000 $(BIN)/python -m pytest tests/test_fuzz.py

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# .installed holds the seconds that the installation took, for the demonstration's summary.
.venv/.installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	began=$$(date +%s) && $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt \
		&& echo $$(($$(date +%s) - began)) > $@

.venv/.installed-dev: .venv/.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv runs stores
