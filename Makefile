# Two commands set everything up: `make run` and `make test`. `make help` lists the rest.
PYTHON ?= python3
DATA ?=
PROFILE ?= quick
ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help venv run test lint bench clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

venv: .venv/.installed ## Build .venv with everything that runs and tests the project

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: venv ## Run the whole pipeline offline: DATA=all-mias.tar.gz|folder, or phantoms without it; PROFILE=quick|full
	$(BIN)/mammopipe run --backend process --dataset mias --profile $(PROFILE) $(if $(DATA),--source $(DATA)) $(ARGS)

test: venv ## Run all tests; real films are tried too where MAMMOPIPE_MIAS names them
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: venv ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: venv ## Run tests/benchmarks and write benchmarks.json
	$(BIN)/python -m tests.benchmarks $(ARGS)

clean: ## Remove .venv, caches and builds; runs/ stays
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
