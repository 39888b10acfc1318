# Every target sets up what it needs (a virtual environment in .venv) and may be the first command typed here.

PYTHON_BIN := .venv/bin/python
# In CI nothing is repaired on the way: what the formatter would change is an error.
FORMAT := $(if $(CI),--check --diff,)

.DEFAULT_GOAL := help
.PHONY: help demo test check bench clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

demo: ## see it work: thousands of real files processed, workers killed, nothing lost
	@scripts/bootstrap
	@$(PYTHON_BIN) examples/demo.py

test: ## run all tests
	@scripts/bootstrap dev
	@$(PYTHON_BIN) -m pytest $(ARGS)

check: ## formatting, lint and types
	@scripts/bootstrap dev
	@echo "check: ruff format"
	@$(PYTHON_BIN) -m ruff format --quiet $(FORMAT) .
	@echo "check: ruff"
	@$(PYTHON_BIN) -m ruff check --quiet .
	@echo "check: mypy"
	@$(PYTHON_BIN) -m mypy --no-error-summary
	@echo "check: pyright"
	@$(PYTHON_BIN) -m pyright --pythonpath $(PYTHON_BIN)
	@echo "check: all well"

bench: ## measure it against other queues on this machine
	@scripts/bootstrap bench
	@$(PYTHON_BIN) -m benchmarks $(ARGS)

clean: ## remove everything that make has made
	@rm -rf .venv .venv.lock build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
