# Every target is one command, written behind it; on Windows type that command instead
# (.venv\Scripts\python in place of .venv/bin/python), and scripts\setup.ps1 for `make setup`.
PYTHON ?= python3
VENV := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-text demo-base demo-captioner demo-reference test test-long test-all test-gpu fuzz torture lint type format docs check

help:  ## List what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## Make .venv and install everything into it (python3 scripts/setup.py)
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed and '$(PYTHON)' was not found: install it, or name yours with make PYTHON=/path/to/python" >&2; exit 4; }
	@$(PYTHON) scripts/setup.py

demo: setup  ## Label bare pictures, train their style on the built-in base and show it (.venv/bin/python -m demo)
	$(VENV) -m demo

demo-text: setup  ## Teach a real chat model a shop's voice and show it (.venv/bin/python -m demo.text)
	$(VENV) -m demo.text

demo-base: setup  ## Train the built-in base itself; hours on a processor (.venv/bin/python -m demo.base)
	$(VENV) -m demo.base

demo-captioner: setup  ## Train the built-in captioner itself; most of an hour on a processor (.venv/bin/python -m demo.captioner)
	$(VENV) -m demo.captioner

demo-reference: setup  ## Train the full fine-tuning that the demo compares with (.venv/bin/python -m demo.reference)
	$(VENV) -m demo.reference

test: setup  ## Run the tests, some minutes (.venv/bin/python -m pytest -n auto)
	$(VENV) -m pytest -n auto

test-long: setup  ## Run the long tests that `make test` leaves out (.venv/bin/python -m pytest -m "long and not slow and not gpu" -n auto)
	$(VENV) -m pytest -m "long and not slow and not gpu" -n auto

test-all: setup  ## Run the long and the slow tests too (.venv/bin/python -m pytest -m "not gpu")
	$(VENV) -m pytest -m "not gpu"

test-gpu: setup  ## Run the tests that need an NVIDIA card (.venv/bin/python -m pytest -m gpu)
	$(VENV) -m pytest -m gpu

fuzz: setup  ## Try 40,000 damaged configurations, pictures, tables and weights; half an hour (.venv/bin/python -m tests.fuzz)
	$(VENV) -m tests.fuzz

torture: setup  ## Kill 200 runs and damage what they saved, half an hour (.venv/bin/python -m tests.torture)
	$(VENV) -m tests.torture

lint: setup  ## Look for mistakes in the code's style (.venv/bin/python -m ruff check .)
	$(VENV) -m ruff check .

type: setup  ## Check the types (.venv/bin/python -m mypy)
	$(VENV) -m mypy

format: setup  ## Bring the code into its form (.venv/bin/python -m ruff format .)
	$(VENV) -m ruff format .

docs: setup  ## Write the pages made from schema and messages (.venv/bin/python scripts/write_reference.py)
	$(VENV) scripts/write_reference.py

check: lint type test  ## lint, type and test
