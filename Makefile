# Every target makes .venv by itself: from python3 alone, with exactly what requirements.lock pins.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# uv as found on the PATH, else one of our own.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .venv-uv/bin/uv)
# Where pip has been told to look for packages, uv looks too.
PIP_INDEX = $$($(PYTHON) -m pip config list 2>/dev/null | sed -n "s/^[^=]*\.index-url='\(.*\)'$$/\1/p" | tail -n 1)

.PHONY: help demo test lint bench
.DEFAULT_GOAL := help

help:
	@echo "make demo    train a method of each domain on demo data, compare it, write a report (minutes)"
	@echo "make test    all tests"
	@echo "make lint    style, types, and who may import whom"
	@echo "make bench   races against other implementations"

demo: $(STAMP)
	$(BIN)/consilience demo

# Two files of tests at a time, one thread a process: what the smallest machine has cores for.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks.recsys
	$(BIN)/python -m benchmarks.core
	$(BIN)/python -m benchmarks.har
	$(BIN)/python -m benchmarks.remote_sensing
	$(BIN)/python -m benchmarks.medical
	$(BIN)/python -m benchmarks.audio_music

$(STAMP): requirements.lock pyproject.toml | $(filter .venv-uv/%,$(UV))
	@echo "making .venv"
	@$(BIN)/python -c "" 2>/dev/null || { rm -rf .venv && \
		$(UV) venv --quiet --python-preference system --python '>=3.11,<3.13' .venv; }
	@index="$${UV_DEFAULT_INDEX:-$${UV_INDEX_URL:-$(PIP_INDEX)}}"; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	export UV_SYSTEM_CERTS=1 && \
	$(UV) pip sync --quiet --python $(BIN)/python requirements.lock && \
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.venv-uv/bin/uv:
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/pip install --quiet uv
