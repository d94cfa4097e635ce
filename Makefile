.DEFAULT_GOAL := help
.PHONY: help install dev demo up test collected test-unit lint bench soak fuzz contracts
BIN := .venv/bin

help: ## What can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

install: ## .venv with the command kivuko; needs Python 3.11 or later and nothing else
	@PYTHON="$(PYTHON)" deploy/install.sh embedded

dev: ## The same, and what the tests need
	@PYTHON="$(PYTHON)" deploy/install.sh dev

demo: install ## Send real studies through a fresh Kivuko and show their way
	@$(BIN)/kivuko demo

up: install ## Run everything on this machine
	@$(BIN)/kivuko up

test: dev ## Everything: set-up, checks of the source, all tests
	@tests/support/prerequisites.sh
	@$(MAKE) --no-print-directory -j 2 lint collected
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

# Each worker would make every test ready for itself: it is done once, beside the checks. What is wrong they say.
collected: dev
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --collect-only -qq >/dev/null || true

test-unit: dev ## Tests that need no server
	$(BIN)/pytest tests/unit

lint: dev ## Style, format, types, and the one way between the rooms
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: dev ## Measure; make bench ONLY=ingest runs one
	@tests/support/prerequisites.sh
	$(BIN)/python -m tests.bench $(ONLY)

soak: dev ## Kill ingest, egress and worklist 200 times each under load, take the object store away; about two hours
	@tests/support/prerequisites.sh
	KIVUKO_TEST_KILLS=20 $(BIN)/pytest tests/e2e/test_crash.py
	$(BIN)/pytest -m soak
	KIVUKO_TEST_EXAMPLES=1000 $(BIN)/pytest tests/unit
	$(BIN)/python -m tests.soak
	$(BIN)/python -m tests.soak.egress --kills 200
	$(BIN)/python -m tests.soak.worklist --kills 100
	$(BIN)/python -m tests.soak.worklist --kills 100 --database postgresql

fuzz: dev ## Bytes that nobody would send, at the DICOM upper layer; make fuzz CASES=1000000
	$(BIN)/python -m tests.fuzz $(CASES)

contracts: dev ## Generate schemas and AsyncAPI from the models
	$(BIN)/python -m contracts.generate
