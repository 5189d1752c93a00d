VENV ?= .venv
PYTHON ?= python3
WORKERS ?= 2
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
DEV := $(VENV)/.dev
BUILD := pyproject.toml constraints.txt hatch_build.py $(wildcard kernels/slant_kernels/*.cpp kernels/slant_kernels/*.h)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test slow lint bench clean

demo: $(DEMO)                 ## install, then score the bundled passages with the bundled checkpoint
	$(BIN)/slant demo

test: $(DEV)                  ## the test suite, without the tests marked slow, in WORKERS processes
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

slow: $(DEV)                  ## the tests marked slow
	$(BIN)/python -m pytest -m slow

lint: $(DEV)                  ## formatting, lints, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(DEV)                 ## measure the CPU suite, in under ten minutes, and write the figures into docs/benchmarks.md
	$(BIN)/python -m pytest benchmarks/cpu -vv --benchmark-enable --benchmark-group-by=func \
		--benchmark-max-time=2 --benchmark-min-rounds=3 --benchmark-columns=min,median,iqr,rounds
	$(BIN)/python benchmarks/report.py

# The constraints pin the versions the suite was run with; pip resolves the rest.
$(DEMO): $(BUILD)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(DEV): $(BUILD)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[dev]'
	touch $(DEMO) $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache
