# Two commands are all that a fresh machine needs: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
export SAEPIPE_SHARED ?= ../shared
export SAEPIPE_SCREENSHOTS ?= $(CURDIR)/screenshots
export TOKENIZERS_PARALLELISM := false

.PHONY: demo quick test soak interop check lint penalties audit clean

demo: .venv/installed  ## harvest, train, evaluate and compare on the embedded default
	$(BIN)/saepipe demo --out demo

quick: .venv/installed  ## the fast half of the tests, within a minute
	$(BIN)/pytest -n 2 -q -m quick

test: .venv/installed  ## the test suite; its browser writes screenshots/
	$(BIN)/pytest -n 2 -q

# dictionary-learning installs, through nnsight, a torchvision that fits no CPU build of torch; nothing here uses it.
interop: .venv/installed  ## our formats against the libraries that own them
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,interop]'
	$(BIN)/pip uninstall --quiet --yes torchvision
	$(BIN)/pytest -q -m interop

penalties: .venv/installed  ## trains every arm of saepipe validate and writes the table of docs/penalties.md
	$(BIN)/saepipe validate all --out validation --page docs/penalties.md

lint: .venv/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: .venv/installed  ## fifteen minutes of random faults in a study, mended to the same bytes
	$(BIN)/python bench/soak.py

# Outside CI, since it asks the network; --strict fails if a package cannot be looked up.
audit: build/audit/bin/pip-audit  ## known weaknesses of the versions in constraints.txt
	build/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

build/audit/bin/pip-audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit

check: lint test  ## what CI runs; pytest comes last

# torch comes first and pinned: an unpinned one would bring gigabytes of CUDA, which a CPU machine does not need.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv demo screenshots build *.egg-info
