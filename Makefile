# The doors of the project. Everything runs from .venv, which `make setup` builds once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Without an NVIDIA driver the CPU build of torch is enough; the plain one would fetch gigabytes of CUDA. It has no
# opinion on triton, so the version that the stored compiler results were made with is asked for; a CUDA build has one.
TORCH  := torch==2.13.0
TRITON := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo triton || echo triton==3.9.0)
TORCH_INDEX := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo --extra-index-url https://download.pytorch.org/whl/cpu)

.PHONY: setup demo test search bench lint format clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --retries 1 $(TORCH_INDEX) $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH) $(TRITON) --editable '.[kernels,distributed,search,sensitivity,dev]'
	@touch $@
	@echo "ready: $(BIN)/cascade --help"

demo: setup
	$(BIN)/cascade demo --out demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -n 2 --dist loadgroup
	$(BIN)/pytest --nbmake notebooks

# The property tests once more, on examples that no run has seen.
search: setup
	HYPOTHESIS_PROFILE=search $(BIN)/pytest -n 2 --dist loadgroup -m hypothesis tests

bench: setup
	$(BIN)/python -m validation.bench

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
