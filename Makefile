# Every target sets up what it needs (a virtual environment in .venv) and may be the first command typed here.

PYTHON_BIN := .venv/bin/python
# In CI nothing is repaired on the way: what the formatter would change is an error.
FORMAT := $(if $(CI),--check --diff,)
# What has to do with RabbitMQ: by the names of files, folders and brokers under test.
RABBITMQ_TESTS := tests -k rabbitmq
RABBITMQ4_ROOT := $(CURDIR)/.rabbitmq4

.DEFAULT_GOAL := help
.PHONY: help demo test test-rabbitmq4 check guard bench bench-growth bench-peers clean

help: ## show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' Makefile | expand -t 24

demo: ## see it work: thousands of real files processed, workers killed, nothing lost
	@scripts/bootstrap
	@$(PYTHON_BIN) examples/demo.py

test: ## run all tests
	@scripts/bootstrap dev
	@scripts/rabbitmq install
	@scripts/test $(ARGS)

test-rabbitmq4: ## run the RabbitMQ part of the tests on the newest RabbitMQ of Debian (as root)
	@scripts/bootstrap dev
	@scripts/rabbitmq root $(RABBITMQ4_ROOT)
	@DISPATCHER_TEST_RABBITMQ_ROOT=$(RABBITMQ4_ROOT) $(PYTHON_BIN) -m pytest $(RABBITMQ_TESTS) $(ARGS)

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

guard: ## see that no task got a quarter dearer in CPU than recorded
	@scripts/bootstrap dev
	@$(PYTHON_BIN) -m benchmarks.guard $(ARGS)

bench: ## measure it against other queues on this machine
	@scripts/bootstrap bench
	@$(PYTHON_BIN) -m benchmarks $(ARGS)

bench-growth: ## measure what a task costs as queues, workers, bodies and delays grow
	@scripts/bootstrap bench
	@$(PYTHON_BIN) -m benchmarks.growth $(ARGS)

bench-peers: ## measure Celery, Dramatiq, taskiq and others beside it, each in its best setting
	@scripts/bootstrap bench
	@$(PYTHON_BIN) -m benchmarks.peers $(ARGS)

clean: ## remove everything that make has made
	@rm -rf .venv .venv.lock .bench $(RABBITMQ4_ROOT) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
