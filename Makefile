# One command per task; each sets up what it needs. PYTHON picks the interpreter (3.11 or newer) of a
# new .venv, WORKERS how many tests run beside each other.
PYTHON ?= python3
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
PHASE := scripts/phase
# On a busy machine a test beside others may miss a time that it keeps alone: what failed runs again by
# itself, and only what fails then fails the run. A mistake in the code fails both times.
PYTEST := $(BIN)/pytest -n $(WORKERS) --maxprocesses 4 || { \
	echo "== run what failed again, one test at a time" && \
	$(BIN)/pytest --last-failed --last-failed-no-failures none; }
# The interpreter that will be used: once there is an environment, its own.
INTERPRETER := $(if $(wildcard $(STAMP)),$(BIN)/python,$(PYTHON))
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_QUIET := 1
# A process that may not keep what it has compiled needs twice as long to start, and tests start many.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help prerequisites setup build demo test check lint hooks audit model sabotage fuzz faults \
	torture torture-layouts restarts drills format bench bench-calls clean infra strangers wheel sdist packages licences \
	docs fleet thorough asyncpg-newest check-rust check-python

help: ## show what there is to make
	@echo "make TARGET, with one of:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

prerequisites: ## look whether Python, Rust and a C compiler are there, and name what is missing
	@scripts/prerequisites $(GATE) $(INTERPRETER)

setup: prerequisites $(STAMP) ## make .venv and install what the tests and checks need

$(STAMP): pyproject.toml | prerequisites
	[ -e $@ ] || $(PYTHON) -m venv $(VENV)
	@$(PHASE) "install packages into $(VENV), about half a minute" sh -c \
		'$(BIN)/pip install --quiet --upgrade "pip>=25.1" && $(BIN)/pip install --quiet --group dev'
	@touch $@

# With failpoints in the data plane; `make bench` and wheels do without.
build: setup ## compile the extension module into .venv
	@$(PHASE) "compile the extension module, two to three minutes the first time" \
		$(BIN)/maturin develop --release --extras embedded --features extension-module,failpoints

demo: build ## see a tenant move, live, on two throw-away servers
	$(BIN)/eventsource-migrate demo

RUST_TESTS := cargo test --workspace --exclude eventsource-py
CLIPPY := cargo clippy --workspace --all-targets --features eventsource-core/failpoints -- -D warnings

test: build ## run the tests; WORKERS=1 runs them one at a time
	@$(PHASE) "compile and run the Rust tests, the model among them, two to three minutes" $(RUST_TESTS)
	$(PYTEST)

# With rustfmt and clippy.
check lint: GATE := --gate

lint: setup ## look at format and style alone
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	cargo fmt --all --check

check: lint build ## format, lint, types, stubs and the tests: what continuous integration runs
	@$(MAKE) --no-print-directory -j 2 check-rust check-python

# Beside the others, where these leave a processor idle: its output would be between theirs. Neither cargo
# nor a test is a part of that make.
RUST_LOG := target/check-rust.log
check-rust:
	@echo "== clippy and the Rust tests run beside what follows, into $(RUST_LOG)"
	@mkdir -p target
	@MAKEFLAGS= nice -n 19 sh -c '$(CLIPPY) && $(RUST_TESTS)' >$(RUST_LOG) 2>&1 || { \
		cat $(RUST_LOG); echo "== clippy or the Rust tests failed, see above"; exit 1; }
	@grep -h "^test result" $(RUST_LOG) | awk '{ n += $$4 } END { print "== clippy is content, and " n " Rust tests passed" }'

check-python:
	@$(PHASE) "check the types (mypy), about half a minute the first time" $(BIN)/mypy
	@$(PHASE) "check the types of the examples with another checker (pyright)" \
		env PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	@$(PHASE) "check the stubs of the extension module" $(BIN)/python -m mypy.stubtest eventsource._core
	export MAKEFLAGS= && $(PYTEST)

hooks: build ## let git check format, lint and types before each commit
	$(BIN)/pip install --quiet "pre-commit>=4,<5"
	$(BIN)/pre-commit install

audit: setup ## ask the advisory databases about all dependencies; fails when they cannot be asked
	@scripts/audit $(VENV) $(VENV)/audit

model: ## run the models of the protocol, also the large ones, with the numbers of their states
	cargo test -p eventsource-model -- --nocapture --test-threads 1 --include-ignored

# ONLY="name name" chooses among the rules.
sabotage: build ## break one rule after the other in a copy, and see which test notices
	$(BIN)/python -m tests.sabotage $(if $(ONLY),--only $(ONLY))

# Random input at volume, other input each time: COPY streams for the framer, calls for the store.
CASES ?= 200000
SEQUENCES ?= 300
fuzz: build ## random input at volume, for the framer and for the stores
	PROPTEST_CASES=$(CASES) cargo test --release -p eventsource-core --lib -- \
		row::frame:: row::digest:: pass::chunk:: server::dsn::
	FUZZ_SEQUENCES=$(SEQUENCES) $(BIN)/pytest --timeout 3600 tests/integration/stores/test_against_memory.py

# Every failpoint with everything that can happen there; CELLS="bulk abort" plays some of them.
faults: build ## play the whole matrix of faults: every failpoint, everything that can happen there
	$(BIN)/python -m tests.faults.run_matrix $(CELLS)

# Random schedules of writers, faults and restarts; SEED=k SEEDS=1 replays one, WRITE=1 writes figures,
# JOBS=n plays n at once.
SEED ?= 1
SEEDS ?= 25
JOBS ?= 1
torture: build ## play random schedules of writers, faults and restarts
	$(BIN)/python -m tests.faults.run_torture --first $(SEED) --seeds $(SEEDS) --jobs $(JOBS) $(if $(WRITE),--write)

# The same for tables of other libraries; PRESETS="marten emmett" chooses among them.
torture-layouts: build ## play such schedules with the tables and statements of other libraries
	$(BIN)/python -m tests.layouts.torture.run --first $(SEED) --seeds $(SEEDS) --jobs $(JOBS) \
		$(if $(PRESETS),--presets $(PRESETS))

RESTARTS ?= 200
restarts: build ## kill a driver at a random moment and resume at once, RESTARTS times; move 20 tenants
	RESTARTS=$(RESTARTS) IN_A_ROW=20 $(BIN)/pytest --timeout 1200 \
		tests/acceptance/test_restart_within_the_lease.py \
		tests/acceptance/test_one_tenant_moves.py::test_tenants_move_in_a_row_and_nothing_is_lost

drills: build ## restore, lose and swap databases under live writers, and type what the page says
	$(BIN)/pytest tests/drills -m "drills or not drills"

thorough: build ## the tests that `make test` leaves out because others try the same kind
	DISPATCHES=10 $(BIN)/pytest -n $(WORKERS) --maxprocesses 4 -m thorough

infra: build ## long tests: servers that crash at every point, links that break, disks that are full
	$(BIN)/pytest -m infra

fleet: build ## move a wave of 200 tenants by workers that fail, half an hour
	$(BIN)/pytest tests/acceptance/test_fleet.py -s -m fleet

strangers: build ## databases as other people have them, all of them; `make test` runs a third
	$(BIN)/pytest tests/strangers -m "strangers or not strangers"

# How a pool connects is read from attributes that asyncpg does not promise to keep; so its versions have
# an upper bound, and this is run before the bound is moved.
NEWEST := $(CURDIR)/$(VENV)/asyncpg-newest
asyncpg-newest: build ## run the tests of connections with asyncpg's newest release, beyond our bound too
	$(BIN)/pip install --upgrade --no-deps --target $(NEWEST) asyncpg
	PYTHONPATH=$(NEWEST) $(BIN)/python -c 'import asyncpg; print("asyncpg", asyncpg.__version__, asyncpg.__file__)'
	PYTHONPATH=$(NEWEST) $(BIN)/pytest $(OF_CONNECTIONS)

OF_CONNECTIONS := tests/unit/test_connections.py tests/unit/test_passwords.py \
	tests/integration/stores/test_connections.py tests/integration/routing/test_router.py \
	tests/integration/dataplane/test_tls.py tests/integration/dataplane/test_several_hosts.py

wheel: setup ## build a wheel into dist/, which installs without Rust
	@$(PHASE) "compile a wheel, two to three minutes the first time" \
		$(BIN)/maturin build --release --locked --out dist
	@ls -l dist/*.whl

sdist: setup ## make the source distribution in dist/
	$(BIN)/maturin sdist --out dist

packages: wheel ## install the wheel where there is no compiler, and run the demonstration there
	$(BIN)/pytest -m packages tests/packages

licences: ## list the crates that are linked into the wheel, with their licences
	scripts/licences

docs: setup ## build the documentation as a site in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: setup ## format everything, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	cargo fmt --all

# SCALE is the number of events of the moved tenant; 50000 tries everything out in a few minutes.
SCALE ?= 1000000
bench: setup ## run the benchmarks
	@$(PHASE) "compile the extension module without failpoints" \
		$(BIN)/maturin develop --release --extras embedded
	$(BIN)/python -m benchmarks --scale $(SCALE) $(if $(PROFILE),--profile)

bench-calls: build ## time single calls and single rows, for profiling
	cargo bench -p eventsource-core --bench primitives
	$(BIN)/pytest --quiet benchmarks/test_calls.py

clean: ## remove .venv and everything that was compiled
	rm -rf target $(VENV) dist site python/eventsource/_core*.so
