# make demo: train sparse beside masked and dense on real digits.   make test: everything that must hold.
# make quick: one file of tests of each part, in a minute and a half once kernels are compiled; make docs: the site, with its programs run.
# make gpu: the tests that need CUDA, and times beside dense layers; in ten minutes, from these sources, with no installation.
# make bench: a layer beside other engines, those of make bench-peers among them; takes hours.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test quick pytest coverage lint format api docs wheel bench bench-peers gpu clean
.DEFAULT_GOAL := demo

demo: $(VENV)/installed
	$(BIN)/sparsetrain compare --json compare.json --plot compare.png

test: $(VENV)/installed
	@$(MAKE) --no-print-directory --jobs 2 lint pytest

# processes that share cores must not spin where threads wait for each other: small steps took three times as long
pytest quick coverage: export OMP_WAIT_POLICY := passive
# a hundred processes that tests start would each compile all sources anew, a quarter of a second
pytest quick coverage: export PYTHONDONTWRITEBYTECODE :=
pytest: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

QUICK := private_hooks floors public_api topology kernels row_kernels workers ops sparse_linear sparse_convolution \
	lookup_table convert evolver optim_contract io

quick: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist worksteal $(QUICK:%=tests/test_%.py)

coverage: $(VENV)/installed
	$(PIP) pytest-cov
	$(BIN)/python -m pytest tests --numprocesses auto --maxprocesses 4 --dist worksteal --cov --cov-report term-missing:skip-covered

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

api: $(VENV)/installed
	PYTHONPATH=. $(BIN)/python tests/public_api.py

docs: $(VENV)/installed
	$(BIN)/python -m sphinx --fail-on-warning --keep-going docs build/docs

wheel: $(VENV)/installed
	rm -rf dist
	$(BIN)/python -m build
	$(PIP) twine
	$(BIN)/python -m twine check --strict dist/*

bench: $(VENV)/installed
	$(BIN)/sparsetrain bench --preset layers --json bench-layers.json --html bench-layers.html

# one by one, as each compiles in its own way and any may fail here: what is missing shows as missing in the tables;
# torch-sparse comes last, since it takes long minutes, after torch-scatter, which it imports and does not declare
bench-peers: $(VENV)/installed
	$(PIP) wheel setuptools ninja pybind11
	@for peer in $$(cat bench/peers.txt); do \
	  $(BIN)/python -m pip install --no-build-isolation --constraint constraints.txt "$$peer" || true; \
	done
	@for peer in $$(cat bench/peers.txt); do \
	  if $(BIN)/python -m pip show --quiet "$${peer%%==*}" 2>/dev/null; then echo "installed  $$peer"; \
	  else echo "missing    $$peer"; fi; \
	done

gpu: export PYTHONPATH := .:kernels:bench
gpu:
	@$(PYTHON) -m pytest -m gpu -W default $$(grep --files-with-matches mark.gpu tests/test_*.py); tests=$$?; \
	$(PYTHON) -u bench/gpu.py --seconds 430 --json gpu.json && exit $$tests

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt bench/pyproject.toml
	@echo "Installing into $(VENV), torch among it: a minute or two, or more where the network is slow."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --no-compile --editable ".[demo,docs,test]" --editable ./bench
	@$(PIP) --no-deps binn  # its files alone, see constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist docs/gallery docs/api/sparsetrain*.rst *.egg-info compare.json compare.png bench-layers.json bench-layers.html gpu.json
