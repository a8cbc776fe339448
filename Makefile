# Every target but clean builds .venv first when it is missing or older than its inputs.
PYTHON ?= python3
EXTRAS ?= quickstart,test,dev
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: install quickstart test test-fast fuzz check docs docs-run package notebooks claims bench clean

install: $(STAMP)

# torch goes first and exactly: an open range may fetch another build with several GB of GPU libraries.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install torch==2.13.0
	$(BIN)/python -m pip install -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

quickstart: $(STAMP)
	$(BIN)/depthup quickstart

# Two processes of one thread each: threads that wait for each other cost more than they give.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Without the tests on real weights.
test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# A thousand malformed recordings and 300 manifests through the readers; `make test` tries a tenth of them.
fuzz: $(STAMP)
	OMP_NUM_THREADS=1 DEPTHUP_FUZZ=10 $(BIN)/python -m pytest -s tests/test_fuzz.py

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The paper's comparison on spoken digits with every method: hours on 2 cores; the same command goes on.
claims: $(STAMP)
	$(BIN)/python benchmarks/claims.py digits --speech ../shared/speech --text-data ../shared/text --jobs 2

# The tables of docs/performance.md, as JSON in runs/bench too; alone on the machine. ESPnet unpacked: ESPNET=folder.
# Decoding is of RUN on TEST; docs/performance.md says how its own were made.
SPEECH ?= ../shared/speech
RUN ?= quickstart/run
TEST ?= quickstart/corpus/test.jsonl
PROMPTS = benchmarks/prompts.yaml --data.train $(SPEECH)/prompts-en/train.jsonl
bench: $(STAMP) quickstart/run
	$(BIN)/python benchmarks/training.py $(PROMPTS) --json runs/bench/training.json
	$(BIN)/python benchmarks/e_branchformer.py $(if $(ESPNET),--espnet $(ESPNET)) --json runs/bench/e_branchformer.json
	$(BIN)/python benchmarks/decoding.py $(RUN) $(TEST) --limit 48 --json runs/bench/decoding.json
	$(BIN)/python benchmarks/loading.py $(PROMPTS) --json runs/bench/loading.json
	$(BIN)/python benchmarks/growth.py $(PROMPTS) --picture runs/bench/growth.png --json runs/bench/growth.json
	$(BIN)/python benchmarks/startup.py $(RUN) $(TEST) --json runs/bench/startup.json

quickstart/run:
	$(BIN)/depthup quickstart

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache

# The site in site/; a warning is an error.
docs: $(BIN)/mkdocs
	$(BIN)/python -m mkdocs build --strict

$(BIN)/mkdocs: | $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'

# Every block of the documents in a shell, the slow ones too, on tiny models; and which are not run, and why.
docs-run: $(STAMP)
	OMP_NUM_THREADS=1 DEPTHUP_DOCS=whole $(BIN)/python -m pytest tests/test_docs_run.py
	$(BIN)/python tests/docs_blocks.py

# Wheel and sdist, in an environment that holds nothing but what they depend on.
package: $(STAMP)
	$(BIN)/python tests/package.py

# Both notebooks at their real size, where they are, with their pictures.
notebooks: $(BIN)/jupyter-execute
	$(BIN)/jupyter-execute --inplace docs/notebooks/adapt.ipynb docs/notebooks/inside.ipynb

$(BIN)/jupyter-execute: | $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[notebooks]'
