# Everything a bare machine needs is done here: `make demo`, `make test`, `make check`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export NO_MKDOCS_2_WARNING = 1
RUNTIME_TESTS := tests/test_openvino.py tests/test_tflite.py tests/test_privacy.py tests/test_compatibility.py

PROTOS := src/phidet/serve/protos

.PHONY: demo test test-main test-docs test-runtimes test-slow test-lowest protos docs clients runtimes programs check format clean

demo: $(VENV)/.installed-core  ## install the core, and find the person in a portrait: demo/detections/
	mkdir -p demo
	# The portrait comes with matplotlib; its wheel is only looked into, not installed.
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest demo matplotlib
	$(BIN)/python -c "import glob, zipfile; from PIL import Image; \
	  wheel = zipfile.ZipFile(glob.glob('demo/matplotlib-*.whl')[0]); \
	  photo = wheel.open('matplotlib/mpl-data/sample_data/grace_hopper.jpg'); \
	  Image.open(photo).save('demo/grace-hopper.png')"
	$(BIN)/phidet detect demo/grace-hopper.png --out demo/detections

test: test-docs test-runtimes test-main  ## run the tests

test-slow: WHICH := slow or not slow
test-slow: test  ## run the slow tests as well

test-main: $(VENV)/.installed-dev clients programs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q -m "$(or $(WHICH),not slow)" --ignore tests/test_privacy.py

test-docs: $(VENV)-docs/.installed
	OMP_NUM_THREADS=1 $(VENV)-docs/bin/python -m pytest -n 2 -q -m "$(or $(WHICH),not slow)" tests/test_docs.py

test-runtimes: runtimes programs
	OMP_NUM_THREADS=1 $(VENV)-runtimes/bin/python -m pytest -n 2 --dist loadfile -q -p no:anyio \
	  -m "$(or $(WHICH),not slow and not repeated)" $(RUNTIME_TESTS)

test-lowest: $(VENV)-lowest/.installed clients programs  ## the core and the server on the lowest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest -n 2 --dist loadfile -q -W default -m "not slow and not repeated"

docs: $(VENV)-docs/.installed  ## build the documentation into site/, and check it
	$(VENV)-docs/bin/python -m mkdocs build --strict --quiet
	$(VENV)-docs/bin/python tools/docs_site.py site

clients: $(VENV)-clients/.installed  ## serving clients that others wrote, for the tests; their pins are not ours

runtimes: $(VENV)-runtimes/.installed  ## OpenVINO and LiteRT, for their tests; they do not go with everything

programs:  ## Chromium, strace, nginx, Xvfb and zsh for tests, where they can be had; what lacks one is skipped and says so
	@for program in chromium:chromium-driver strace nginx Xvfb:xvfb openssl zsh; do \
	  command -v $${program%%:*} > /dev/null || missing="$$missing $${program#*:}"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then apt-get update -qq; \
	    for package in $$missing; do DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$package > /dev/null || echo "no $$package" >&2; done; \
	  else echo "not here:$$missing. The tests that need them will be skipped" >&2; fi; fi

check: $(VENV)/.installed-dev  ## lint, format, types, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

protos: $(VENV)/.installed-dev  ## compile the server's protobuf messages after a change of their .proto files
	$(BIN)/python -m grpc_tools.protoc --proto_path $(PROTOS) --include_imports \
	  --descriptor_set_out $(PROTOS)/messages.binpb $(PROTOS)/*.proto

format: $(VENV)/.installed-dev  ## rewrite the files as `make check` wants them
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf site $(VENV) $(VENV)-docs $(VENV)-clients $(VENV)-runtimes $(VENV)-lowest .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "phidet needs Python 3.11 or newer; try: make PYTHON=python3.12 demo" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# What several environments hold is one file on the disk: uv links what it has unpacked.
$(BIN)/uv: | $(BIN)/python
	$(BIN)/python -m pip install --quiet uv

$(VENV)-clients/.installed: tests/clients/requirements.txt | $(BIN)/uv
	$(PYTHON) -m venv --without-pip $(VENV)-clients
	.ci/install $(VENV)-clients/bin/python -r $<
	@touch $@

# Without PyTorch: what is not told apart by versions of the packages around it is left to `make test`.
$(VENV)-lowest/.installed: pyproject.toml .ci/lowest.py | $(BIN)/uv
	$(PYTHON) -m venv --without-pip $(VENV)-lowest
	$(PYTHON) .ci/lowest.py > $(VENV)-lowest/constraints.txt
	.ci/install $(VENV)-lowest/bin/python -c $(VENV)-lowest/constraints.txt \
	  -e '.[data,grpc,supervision,video]' hypothesis pytest pytest-xdist
	@touch $@

# On top of the development environment, so that PyTorch is not installed twice: uv would, which does not look there.
$(VENV)-runtimes/.installed: pyproject.toml | $(VENV)/.installed-dev
	$(PYTHON) -m venv --without-pip $(VENV)-runtimes
	$(BIN)/python -c 'import site; print(*site.getsitepackages(), sep="\n")' \
	  > $$($(VENV)-runtimes/bin/python -c 'import site; print(site.getsitepackages()[0])')/phidet-dev.pth
	$(BIN)/python -m pip --python $(VENV)-runtimes/bin/python install --quiet --editable '.[openvino,tflite]'
	@touch $@

# On top of the development environment, so that notebooks find phidet and PyTorch.
$(VENV)-docs/.installed: pyproject.toml | $(VENV)/.installed-dev
	$(PYTHON) -m venv --without-pip $(VENV)-docs
	$(BIN)/python -c 'import site; print(*site.getsitepackages(), sep="\n")' \
	  > $$($(VENV)-docs/bin/python -c 'import site; print(site.getsitepackages()[0])')/phidet-dev.pth
	$(BIN)/python -m pip --python $(VENV)-docs/bin/python install --quiet --editable '.[docs]'
	@touch $@

$(VENV)/.installed-core: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(BIN)/uv
	.ci/install $(BIN)/python -e '.[$*]'
	@touch $@
