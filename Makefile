PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo check test lint params bench up clean

# Two test processes; a file's tests stay in one, in the order in which they are listed.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
UNITS := tests/contracts tests/data tests/models tests/serving

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(READY) ## make .venv with the pinned versions (skipped when it is in place)

# Set-up runs again when the pins or the package metadata change, or when Python itself is gone.
$(READY): constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "regraft needs Python 3.11 as '$(PYTHON)' (or: make PYTHON=/path/to/python3.11 ...)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY) ## the main job: render a line, train, serve, drift, retrain, swap (two minutes, five on a busy machine)
	$(BIN)/regraft demo

check: lint ## lint, contracts and units: what to run before every commit
	$(PYTEST) -m "not slow and not gpu" $(UNITS)

test: $(READY) ## run the whole test suite
	$(PYTEST)

params: $(READY) ## write params.yaml anew after a knob was added or changed
	$(BIN)/python -m regraft.tasks.settings.template > params.yaml.new && mv params.yaml.new params.yaml

lint: $(READY) ## ruff, format and the floors of the architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/contracts/floors.py

bench: $(READY) ## measure the figures of docs/benchmarks (needs the real data sets beside the checkout)
	$(BIN)/python -m benchmarks

up: $(READY) ## Prefect server and UI, schedules and the endpoint, on the demo's workspace
	$(BIN)/regraft up --workspace workspaces/demo

clean: ## remove what set-up and demo made
	rm -rf .venv workspaces
