# Every target but clean builds .venv first when it is missing or older than its inputs.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: install quickstart test test-fast check claims clean

install: $(STAMP)

# torch goes first and exactly: an open range may fetch another build with several GB of GPU libraries.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install torch==2.13.0
	$(BIN)/python -m pip install -c constraints.txt -e '.[quickstart,test,dev]'
	touch $@

quickstart: $(STAMP)
	$(BIN)/depthup quickstart

# Two processes of one thread each: threads that wait for each other cost more than they give.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Without the tests on real weights.
test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The paper's comparison on spoken digits with every method: hours on 2 cores; the same command goes on.
claims: $(STAMP)
	$(BIN)/python benchmarks/claims.py digits --speech ../shared/speech --text-data ../shared/text --jobs 2

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache
