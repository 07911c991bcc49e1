# One command per task; each sets up what it needs. PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_QUIET := 1

.PHONY: setup build demo test check model sabotage fuzz faults torture format bench bench-calls clean infra strangers

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --group dev
	touch $(STAMP)

# With failpoints in the data plane; `make bench` and wheels do without.
build: setup
	$(BIN)/maturin develop --release --quiet --extras embedded --features extension-module,failpoints

demo: build
	$(BIN)/eventsource-migrate demo

test: build
	cargo test --workspace --exclude eventsource-py --quiet
	$(BIN)/pytest

check: build
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --features eventsource-core/failpoints --quiet -- -D warnings
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest eventsource._core
	cargo test --workspace --exclude eventsource-py --quiet
	$(BIN)/pytest

# The model alone, with the numbers of states that it went through.
model:
	cargo test -p eventsource-model --quiet -- --nocapture --test-threads 1

# Breaks one rule after the other in a copy; ONLY="name name" chooses among them.
sabotage: build
	$(BIN)/python -m tests.sabotage $(if $(ONLY),--only $(ONLY))

# Random input at volume, other input each time: COPY streams for the framer, calls for the store.
CASES ?= 200000
SEQUENCES ?= 300
fuzz: build
	PROPTEST_CASES=$(CASES) cargo test --release -p eventsource-core --lib -- frame:: digest:: chunk:: dsn::
	FUZZ_SEQUENCES=$(SEQUENCES) $(BIN)/pytest --timeout 3600 tests/integration/stores/test_against_memory.py

# Every failpoint with everything that can happen there; CELLS="bulk abort" plays some of them.
faults: build
	$(BIN)/python -m tests.faults.run_matrix $(CELLS)

# Random schedules of writers, faults and restarts; SEED=k SEEDS=1 replays one, WRITE=1 writes figures,
# JOBS=n plays n at once.
SEED ?= 1
SEEDS ?= 25
JOBS ?= 1
torture: build
	$(BIN)/python -m tests.faults.run_torture --first $(SEED) --seeds $(SEEDS) --jobs $(JOBS) $(if $(WRITE),--write)

# Servers that crash at every point, links that break, poolers, disks that are full.
infra: build
	$(BIN)/pytest -m infra

# Databases as other people have them, all of them; `make test` runs a third.
strangers: build
	$(BIN)/pytest tests/strangers -m "strangers or not strangers"

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	cargo fmt --all

# SCALE is the number of events of the moved tenant; 50000 tries everything out in a few minutes.
SCALE ?= 1000000
bench: setup
	$(BIN)/maturin develop --release --quiet --extras embedded
	$(BIN)/python -m benchmarks --scale $(SCALE) $(if $(PROFILE),--profile)

# Single calls and single rows, for profiling.
bench-calls: build
	cargo bench --quiet -p eventsource-core --bench primitives
	$(BIN)/pytest --quiet benchmarks/test_calls.py

clean:
	rm -rf target $(VENV) python/eventsource/_core*.so
