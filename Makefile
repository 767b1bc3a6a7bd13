# Two commands are all that a fresh machine needs: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
export SAEPIPE_SHARED ?= ../shared
export SAEPIPE_SCREENSHOTS ?= $(CURDIR)/screenshots
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test interop check lint penalties clean

demo: .venv/installed  ## harvest, train, evaluate and compare on the embedded default
	$(BIN)/saepipe demo --out demo

test: .venv/installed  ## the test suite; what its browser saw lies in screenshots/
	$(BIN)/pytest -n 2 -q

# dictionary-learning brings a torchvision, by way of nnsight, that fits no CPU build of torch; nothing here uses it.
interop: .venv/installed  ## our formats against the libraries that own them
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,interop]'
	$(BIN)/pip uninstall --quiet --yes torchvision
	$(BIN)/pytest -q -m interop

penalties: .venv/installed  ## trains every arm of saepipe validate and writes the table of docs/penalties.md
	$(BIN)/saepipe validate all --out validation --page docs/penalties.md

lint: .venv/installed  ## what a machine can say about style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## what CI runs; pytest comes last

# torch first and pinned: an unpinned one brings gigabytes of CUDA that a CPU machine has no use for.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv demo screenshots build *.egg-info
