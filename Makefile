# Two commands set everything up: `make run` and `make test`. `make help` lists the rest.
PYTHON ?= python3
DATA ?=
PROFILE ?= quick
ARGS ?=
BASE_IMAGE ?=
TORCH_INDEX ?=
CERTIFICATES ?=
DOCKER ?= docker
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help venv typing-links run test test-docker lint bench mutants docs recordings pictures images services services-down clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

venv: .venv/.installed ## Build .venv with everything that runs and tests the project

.venv/.installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@$(MAKE) --no-print-directory typing-links
	@touch $@

# What mypy reads: the folders under the names that they have in the wheel. It does not follow the editable install.
typing-links:
	@rm -rf .venv/typing && mkdir -p .venv/typing/mammopipe
	@ln -s $(CURDIR)/mammopipe/__init__.py $(CURDIR)/mammopipe/py.typed .venv/typing/mammopipe/
	@for folder in processing training inference pipelines; do \
		ln -s $(CURDIR)/$$folder .venv/typing/mammopipe/$$folder; done

run: venv ## Run the whole pipeline offline: DATA=all-mias.tar.gz|folder, or phantoms without it; PROFILE=quick|full
	$(BIN)/mammopipe run --backend process --dataset mias --profile $(PROFILE) $(if $(DATA),--source $(DATA)) $(ARGS)

# Tests start many processes: they read our modules compiled, also where the environment forbids writing them.
# One process more than two cores: tests also wait, for deadlines and for each other's processes.
test: export PYTHONDONTWRITEBYTECODE =
test: venv .services/venv/.installed .services/viewers/.installed ## Run all tests but Docker's; on real films too where MAMMOPIPE_MIAS names them
	@$(BIN)/python -m compileall -q -j 2 mammopipe processing training inference pipelines benchmarks tests/support
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart=0 $(ARGS)

test-docker: venv .services/venv/.installed ## Build the images and run the tests that need a Docker engine
	$(MAKE) images
	$(BIN)/python -m pytest -m docker $(ARGS)

lint: venv ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv ## Run every benchmark and write benchmarks.json
	$(BIN)/python -m benchmarks $(ARGS)

mutants: venv ## Change the deciding code one thing at a time: which changes does no test notice? ARGS="thresholds.py"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt mutmut
	$(BIN)/python -m benchmarks.mutants $(ARGS)

docs: venv ## Write the generated pages of docs/reference again
	$(BIN)/python -m mammopipe.pipelines.config.reference > docs/reference/configuration.md
	$(BIN)/python -m mammopipe.pipelines.costs.page > docs/reference/recipes.md
	$(BIN)/python -m mammopipe.pipelines.commands.reference

recordings: venv ## Draw what a terminal shows of run, status and doctor into docs/recordings, on phantoms
	$(BIN)/python -m tests.recordings $(ARGS)

pictures: venv ## Draw the demo page into docs/images, with a phantom's exam: MODEL=directory of an evaluated model
	$(BIN)/python -m tests.page_pictures $(MODEL)

images: venv ## Build the container images: BASE_IMAGE=..., TORCH_INDEX=..., CERTIFICATES=file, DOCKER=client
	$(BIN)/mammopipe images build --client $(DOCKER) $(if $(BASE_IMAGE),--base-image $(BASE_IMAGE)) \
		$(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX)) $(if $(CERTIFICATES),--certificates $(CERTIFICATES))

services: venv ## Start LocalStack and moto, in containers or as processes, and print the variables that name them
	@$(BIN)/python infra/localstack.py up

services-down: venv ## Stop them
	@$(BIN)/python infra/localstack.py down

.services/venv/.installed: infra/localstack.py | venv
	$(BIN)/python infra/localstack.py install
	@touch $@

# OHIF's and dcmjs's readers of structured reports, which the tests run in node.
.services/viewers/.installed: tests/inference/dicom/viewers/package.json
	@mkdir -p $(@D) && cp $< $(@D)
	@(cd $(@D) && npm install --silent --legacy-peer-deps --no-package-lock --no-audit --no-fund --ignore-scripts \
		&& touch .installed) || echo "npm could not install the viewers: their tests are skipped"

clean: ## Remove .venv, caches and builds; runs/ stays
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
