# make demo: train sparse beside masked and dense on real digits.   make test: everything that must hold.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint wheel clean
.DEFAULT_GOAL := demo

demo: $(VENV)/installed
	$(BIN)/sparsetrain compare --json compare.json --plot compare.png

test: $(VENV)/installed lint
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(VENV)/installed
	$(BIN)/python -m build --wheel

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[demo,test]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info compare.json compare.png
