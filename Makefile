# Everything that a user or a contributor runs. `make help` lists it.

PYTHON   ?= python3
VENV     ?= .venv
BIN      := $(VENV)/bin
CELERY   ?= celery>=5.4,<5.8
# Most tests wait for a worker most of the time.
JOBS     ?= 3
DIST     := dist
export CARGO_TERM_COLOR ?= auto

RUST_SOURCES   := $(shell find rust/core rust/python Cargo.toml -name '*.rs' -o -name Cargo.toml -o -name Cargo.lock)
PYTHON_SOURCES := $(shell find python -type f -not -name '*.so' -not -name '*.pyc')

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# -- set-up

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# One wheel serves the virtual environment, the start-up tests and the demo.
$(DIST)/.wheel: $(RUST_SOURCES) $(PYTHON_SOURCES) pyproject.toml README.md | $(BIN)/python
	$(BIN)/python -m pip install --quiet 'maturin>=1.8,<2'
	rm -rf $(DIST)
	$(BIN)/maturin build --release --quiet --out $(DIST) --interpreter $(BIN)/python
	touch $@

$(VENV)/.demo: $(DIST)/.wheel
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps $(DIST)/*.whl
	$(BIN)/python -m pip install --quiet '$(CELERY)' gevent redis hiredis -r examples/feed_crawler/requirements.txt
	touch $@

# Dependency groups need pip 25.1, and an environment that was there before may have an older one.
$(VENV)/.test: $(DIST)/.wheel pyproject.toml
	$(BIN)/python -m pip install --quiet 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps $(DIST)/*.whl
	$(BIN)/python -m pip install --quiet '$(CELERY)' --group test -r examples/feed_crawler/requirements.txt
	touch $@

$(VENV)/.lint: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --group lint
	touch $@

.PHONY: wheel
wheel: $(DIST)/.wheel ## Build the wheel into dist/

.PHONY: brokers
brokers: ## Install Redis and RabbitMQ from Debian's packages if they are missing (needs root)
	./tests/install-brokers

# -- use

.PHONY: demo
demo: $(VENV)/.demo ## Crawl feeds on hybrid.gevent and on stock gevent, and compare (BROKER=redis://… to use yours)
	$(BIN)/python examples/feed_crawler/run.py --compare hybrid.gevent gevent $(if $(BROKER),--broker $(BROKER))

# -- check

.PHONY: test
test: test-rust test-python ## Run all tests, with everything they need

.PHONY: test-rust
test-rust: ## Run the tests of the Rust core, loom's models included
	cargo test --package hybrid-core
	RUSTFLAGS='--cfg loom' cargo test --package hybrid-core --release --target-dir target/loom --test slab_loom

.PHONY: test-python
test-python: $(VENV)/.test brokers ## Run the Python tests on real brokers (ARGS='-k name' to choose, JOBS=1 in one process)
	HYBRID_WHEEL="$$(ls $(DIST)/*.whl)" $(BIN)/python -m pytest --numprocesses $(JOBS) \
	  --durations 10 $(ARGS)

.PHONY: test-thorough
test-thorough: ## Run the Python tests with every cell of each matrix, also those that make test leaves out
	$(MAKE) test-python ARGS='--thorough $(ARGS)'

$(VENV)/.packages: $(VENV)/.test
	$(BIN)/python -m pip install --quiet '$(CELERY)' --group test --group packages
	touch $@

.PHONY: test-packages
test-packages: ## Run small projects with what people have beside Celery, and compare with the stock pools
	$(MAKE) run-test-packages VENV=.venv-packages

.PHONY: run-test-packages
run-test-packages: $(VENV)/.packages brokers
	$(BIN)/python -m pytest --numprocesses $(JOBS) -p no:ddtrace --packages tests/packages $(ARGS)

.PHONY: test-load
test-load: $(VENV)/.test brokers ## Run the tests with thousands of tasks at once
	$(BIN)/python -m pytest tests/integration/load $(ARGS)

.PHONY: test-storms
test-storms: $(VENV)/.test brokers ## Run storms of interrupted tasks and lost connections, on five seeds (again: what has not passed)
	$(BIN)/python -m pytest tests/storms --records storm-records $(ARGS)

.PHONY: test-signals
test-signals: $(VENV)/.test brokers ## End workers in all ways and states, every two of them meeting (ALL=1 for all 648 cells; again: what has not passed)
	$(BIN)/python -m pytest tests/signals --signal-records signal-records $(if $(ALL),--all-signals) $(ARGS)

.PHONY: soak
soak: $(VENV)/.test brokers ## Run heartbeats and a storm of commands, 20 minutes in all (ARGS='--minutes 1' for less)
	$(BIN)/python -m pytest tests/soak --capture no $(ARGS)

.PHONY: test-pieces
test-pieces: $(VENV)/.test brokers ## Run the conformance tests with each accelerated piece switched off
	for piece in $$($(BIN)/python -c 'from hybrid.worker.settings import PIECES; print(*PIECES)'); do \
	  HYBRID_DISABLE=$$piece $(BIN)/python -m pytest --numprocesses $(JOBS) tests/conformance \
	    --pools hybrid.gevent,hybrid.eventlet $(ARGS) || exit 1; \
	done

.PHONY: test-matrix
test-matrix: brokers ## Run the Python tests against each minor release of Celery
	for minor in 4 5 6 7; do \
	  $(MAKE) test-python VENV=.venv-celery5$$minor CELERY="celery==5.$$minor.*" || exit 1; \
	done

.PHONY: test-oldest
test-oldest: brokers ## Run the conformance tests of our pools on the oldest Celery
	$(MAKE) test-python VENV=.venv-celery54 CELERY='celery==5.4.*' \
	  ARGS='tests/conformance --pools hybrid.gevent,hybrid.eventlet $(ARGS)'

.PHONY: lint
lint: $(VENV)/.lint ## Check formats, lints, types, stubs, docs and import contracts
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' cargo doc --workspace --no-deps --document-private-items --quiet
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/stubtest hybrid._rust
	$(BIN)/lint-imports

.PHONY: fuzz
fuzz: ## Fuzz the decoders and structures for a minute each (needs cargo-fuzz)
	for target in amqp envelope message packing slab timer; do \
	  RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir rust/fuzz --sanitizer none $$target -- \
	    -max_total_time=60 || exit 1; \
	done

.PHONY: bench
bench: $(VENV)/.test brokers ## Measure ours beside stock, a short run
	$(BIN)/python benches/pool.py --quick
	$(BIN)/python benches/timer.py --quick
	$(BIN)/python benches/micro_decode.py --rounds 5
	$(BIN)/python benches/micro_amqp.py --rounds 5
	$(BIN)/python benches/startup.py --quick
	$(BIN)/python -m benches.e2e noop results sleep10 latency20 --quick \
	  --pools gevent,hybrid.gevent,eventlet,hybrid.eventlet
	$(BIN)/python -m benches.e2e noop noop_quiet sleep10_late --quick --broker rabbitmq \
	  --pools gevent,hybrid.gevent,eventlet,hybrid.eventlet

.PHONY: bench-full
bench-full: $(VENV)/.test brokers ## The whole measurement, into benches/results/
	$(BIN)/python benches/pool.py
	$(BIN)/python benches/timer.py
	$(BIN)/python benches/micro_decode.py --json benches/results/decode.json
	$(BIN)/python benches/micro_amqp.py --json benches/results/amqp.json
	$(BIN)/python benches/startup.py
	cargo bench --package hybrid-core
	$(BIN)/python -m benches.e2e --delay direct,2 --minutes 240
	$(BIN)/python -m benches.e2e noop results --delay 0 --output benches/results/e2e-redis-proxy.json
	$(BIN)/python -m benches.e2e --broker rabbitmq --minutes 120
	$(BIN)/python -m pip install --quiet -r benches/requirements.txt
	$(BIN)/python -m benches.e2e.peers
	$(BIN)/python -m benches.e2e.plots benches/results/e2e-redis.json benches/results/e2e-rabbitmq.json

.PHONY: clean
clean: ## Remove what the other targets made
	rm -rf $(VENV) .venv-celery5* $(DIST) target
