# Everything runs from .venv, which is made on first use and again when the list of dependencies changes.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
RUN ?= latest
MINUTES ?= 6
BUCKET ?= module
# Files of few but long tests come first in the order of the folders; xdist would leave them for the end.
SHARED := -n 2 --dist loadscope --no-loadscope-reorder
FAST := $(addprefix tests/,diffusion samplers nets optim statistics runs test_configs.py)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help train serve test test-fast test-all test-busy mutants lint docs bench race bench-samplers gpu-check clean

help:            ## show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 18

train: .venv/run ## set up and train; make train ARGS="experiment=mnist_ddpm trainer.max_steps=100"
	@$(BIN)/python -m src.train experiment=mnist_ddpm $(ARGS)

serve: .venv/serve ## set up and serve a run on http://127.0.0.1:8000; make serve RUN=latest ARGS="port=9000"
	@$(BIN)/python -m src.serve run=$(RUN) $(ARGS)

test: .venv/test ## set up and run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED) $(ARGS)

test-fast: .venv/test ## at most 4 cases of each test of the numerical core and the configs
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED) --most=4 $(FAST) $(ARGS)

test-all: .venv/test ## the slow tests too, and every combination of the parameters of a test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED) -m "" $(ARGS)

mutants: .venv/mutants ## do the tests notice changes of the code? 600 random ones; make mutants ARGS="src/optim --n 50"
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(ARGS)

test-busy: .venv/test ## the tests 5 times in random order, beside programs that keep all cores busy; BUCKET=global
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.busy -- sh -ec 'for turn in 1 2 3 4 5; do \
		order="--random-order-bucket=$(BUCKET) --random-order-seed=$$(date +%s)"; echo "turn $$turn: $$order"; \
		$(BIN)/python -m pytest $(SHARED) --maxfail 1 $$order $(ARGS); done'

lint: .venv/test ## format, lint and check types
	@$(BIN)/ruff format . && $(BIN)/ruff check . && $(BIN)/mypy

bench: .venv/run ## what the framework costs beside plain torch; ARGS=--write updates docs/performance.md
	@$(BIN)/python -m tests.benchmarks.loop $(ARGS)

gpu-check: .venv/test ## what a GPU proves, in 8 minutes; ARGS=right for a section, ARGS=--write updates docs/gpu.md
	@$(BIN)/python -m tests.gpu $(ARGS)

docs: .venv/docs ## the guides and the API reference as pages in outputs/docs, with the tables of docs/ up to date
	@$(BIN)/python -m tests.doc_tables --write
	@$(BIN)/python -m tests.doc_notebook
	@$(BIN)/python -m sphinx -q -W --keep-going -c docs/site -b html . outputs/docs
	@echo "outputs/docs/docs/site/index.html"

race: .venv/run  ## mnist_ddpm against other libraries, MINUTES=6 each; ARGS=data.root=FOLDER
	@$(BIN)/python -m tests.benchmarks.race --minutes $(MINUTES) $(ARGS)

bench-samplers: .venv/run ## how good and how costly every sampler is on a trained MNIST run, RUN=FOLDER
	@$(BIN)/python -m tests.benchmarks.samplers $(RUN) $(ARGS)

clean:           ## remove the environment and caches, never outputs/
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache *.egg-info build

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; name one with make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# Stamps: files that say which dependencies .venv holds.
.venv/run: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install -q -c constraints.txt -e .
	@touch $@

.venv/test: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install -q -c constraints.txt -e '.[test]'
	@touch .venv/run $@

.venv/serve: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install -q -c constraints.txt -e '.[serve]'
	@touch .venv/run $@

.venv/docs: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	@touch .venv/run $@

.venv/mutants: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install -q -c constraints.txt -e '.[mutation]'
	@touch .venv/run .venv/test $@
