# Everything that a person or a machine runs. Needs Python 3.11 or newer and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SEEDS ?= :1000
ROUNDS ?= 20
MINUTES ?= 60
EXAMPLES ?= 2000

.PHONY: help demo test test-quick test-kafka test-kafka-failover check lint simulate mutants fuzz chaos chaos-kafka soak bench-quick bench-log bench-recovery bench-kafka bench-projections bench-replay clean

help: ## List the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[engine,kafka,metrics,otel,sql]' --group dev
	@touch $@

demo: $(READY) ## Process a thousand orders, kill the engine in the middle, check that nothing is lost.
	$(BIN)/python -m examples.orders.demo

test: $(READY) ## Run every test that this machine can run.
	$(BIN)/python -m pytest -n 3 --dist loadgroup $(ARGS)

test-quick: $(READY) ## Run the tests that start no processes.
	$(BIN)/python -m pytest -n 2 -m "not process and not kafka" $(ARGS)

test-kafka: $(READY) ## Run the tests that need a real Kafka broker; without one they fail.
	STEPFOLD_TEST_KAFKA_REQUIRED=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m kafka $(ARGS)

test-kafka-failover: $(READY) ## Kill, stop and bring back each of three brokers under load (1 GB).
	$(BIN)/python -m pytest tests/kafka/failover.py $(ARGS)

lint: $(READY) ## Check format, style, types and the layers.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

check: lint test ## What CI runs.

simulate: $(READY) ## Simulate the whole engine under faults: SEEDS=FROM:TO, a count as :N, or one seed.
	$(BIN)/python -W ignore -m tests.simulation $(SEEDS)

mutants: $(READY) ## Plant bugs in the engine; say how many seeds it takes to catch each.
	$(BIN)/python -W ignore -m tests.simulation.mutants

fuzz: $(READY) ## Throw EXAMPLES of anything at every property: a clear error, a right answer, never stuck.
	STEPFOLD_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest tests/fuzz --hypothesis-show-statistics $(ARGS)

chaos: $(READY) ## Kill, stop, fill, tear, lose power, ROUNDS times: is anything lost or doubled? SEED=N.
	$(BIN)/python -m tests.chaos --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

chaos-kafka: $(READY) ## The same with three processes that share a real Kafka broker of their own. SEED=N.
	$(BIN)/python -m tests.chaos_kafka --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

soak: $(READY) ## Load steadily for MINUTES: does memory, or anything else, grow?
	$(BIN)/python -m tests.chaos.soak --minutes $(MINUTES) $(ARGS)

bench-quick: $(READY) ## Measure W1, W3 and W5 in about two minutes.
	$(BIN)/python -m bench.quick

bench-log: $(READY) ## Measure the embedded log against the disk.
	$(BIN)/python -m bench.log

bench-recovery: $(READY) ## Measure recovery behind a long history, and the memory of parked runs.
	$(BIN)/python -m bench.recovery

bench-kafka: $(READY) ## Measure W1, latencies, takeovers and recovery on a real Kafka broker.
	$(BIN)/python -m bench.kafka $(ARGS)

bench-replay: $(READY) ## Measure replaying: a long run, and a check of ten thousand.
	$(BIN)/python -m bench.replay

bench-projections: $(READY) ## Measure the tables behind SQL: a rebuild, the views, memory.
	$(BIN)/python -m bench.projections

clean: ## Remove what was installed and what the demo wrote.
	rm -rf $(VENV) .demo .stepfold
