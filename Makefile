# Everything here works on a machine with Python 3.11 and make; what else is needed is installed
# into .venv or the user's cache folder. `make help` lists the targets.

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# A file's tests stay together, with the cluster that they share; each process starts clusters of its own. One more process
# than there are CPUs, since tests wait for servers a good deal, and four at the most.
PYTEST = $(BIN)/python -m pytest --numprocesses=$$($(BIN)/python -c 'import os; print(min(4, os.cpu_count() + 1))') --dist=loadfile
STUBS := clients/python
TYPESCRIPT := clients/typescript
JAVA := clients/java
MVN := mvn --batch-mode --quiet --file $(JAVA)
PROTOS := $(shell cd protos && find . -name '*.proto' | sed 's#^\./##' | sort)
BUF := tools/buf/node_modules/.bin/buf
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help run test test-unit test-integration test-e2e conformance lint types proto proto-check proto-lint go-lint go-proto java java-lint typescript typescript-lint typescript-proto lock fuzz bench bench-leases bench-policies bench-fairness bench-connections bench-streams bench-cli clean

help: ## what can be made
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 20

run: .venv/.installed ## a development cluster, a server, a first token; Ctrl-C stops it all
	@exec $(BIN)/python -m devcluster.quickstart

test: .venv/.installed ## all tests: unit, on the real API server, and the first run itself
	$(PYTEST)

test-unit: .venv/.installed ## the tests without network, in seconds
	$(PYTEST) tests/unit

test-integration: .venv/.installed ## the tests on the real API server
	$(PYTEST) tests/integration

test-e2e: .venv/.installed ## the tests of `make run`
	$(PYTEST) tests/e2e

conformance: .venv/.installed ## what every client library must do, tried with each; ends with a table
	$(PYTEST) tests/conformance

lint: .venv/.installed proto-lint go-lint java-lint typescript-lint ## style, imports, protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.installed ## mypy --strict
	$(BIN)/mypy
	$(BIN)/mypy tests
	MYPYPATH=$(STUBS) $(BIN)/mypy $(STUBS)/conformance/driver.py

proto: .venv/.installed go-proto typescript-proto ## the stubs and the descriptor set, from protos/
	@find $(STUBS)/kubevend/v1 $(STUBS)/buf -name '*_pb2*' -delete 2>/dev/null || true
	cd protos && ../$(BIN)/python -m grpc_tools.protoc -I . --python_out=../$(STUBS) --mypy_out=quiet:../$(STUBS) $(PROTOS)
	@# With the details of errors, which no message names but every error holds.
	cd protos && ../$(BIN)/python -m grpc_tools.protoc -I . -I ../$(BIN)/../lib/python3*/site-packages --include_imports \
	  --descriptor_set_out=../$(STUBS)/kubevend/v1/kubevend.protoset $(PROTOS) google/rpc/error_details.proto
	cd protos && ../$(BIN)/python -m grpc_tools.protoc -I . --grpc_python_out=../$(STUBS) \
	  --mypy_grpc_out=quiet:../$(STUBS) $(filter %_service.proto,$(PROTOS))

# What the Go and Java libraries are made from, with no validation rules in it; Java makes its stubs at each build.
PLAIN_PROTOS := clients/java/kubevend/src/main/protobuf/kubevend.binpb
# Go of the version that is needed, installed into .venv where it is missing.
WITH_GO := $(BIN)/python -m devcluster.with_go
HAVE_GO := [ -n "$$CI" ] || $(WITH_GO) --here
GO_LIBRARY := clients/go
GO_TOOLS := $(CURDIR)/.venv/go-tools

go-proto: .venv/.installed
	@$(BIN)/python tools/plain_protos.py $(PLAIN_PROTOS)
	@if $(HAVE_GO); then \
	  $(MAKE) --no-print-directory $(GO_TOOLS)/.installed && rm -f $(GO_LIBRARY)/v1/*.pb.go && \
	  $(BIN)/python -m grpc_tools.protoc --descriptor_set_in=$(PLAIN_PROTOS) \
	    --plugin=protoc-gen-go=$(GO_TOOLS)/protoc-gen-go --plugin=protoc-gen-go-grpc=$(GO_TOOLS)/protoc-gen-go-grpc \
	    --go_out=$(GO_LIBRARY) --go_opt=module=kubevend.dev/kubevend \
	    --go-grpc_out=$(GO_LIBRARY) --go-grpc_opt=module=kubevend.dev/kubevend $(filter-out %/rules.proto buf/%,$(PROTOS)); \
	else echo "skipped the Go stubs: Go is not installed"; fi

go-lint: .venv/.installed ## gofmt, go vet and staticcheck for the Go library (needs Go; CI installs it)
	@if $(HAVE_GO); then \
	  $(MAKE) --no-print-directory $(GO_TOOLS)/.installed && $(WITH_GO) bash tools/go_lint.sh $(GO_TOOLS)/staticcheck; \
	else echo "skipped the lint of the Go library: Go is not installed"; fi

# A minute the first time, for staticcheck.
$(GO_TOOLS)/.installed: $(GO_LIBRARY)/tools/go.mod $(GO_LIBRARY)/tools/go.sum
	@echo "Compiling the Go tools into .venv (about a minute the first time)"
	@GOBIN=$(GO_TOOLS) $(WITH_GO) go -C $(GO_LIBRARY)/tools install tool
	@touch $@

GENERATED := $(STUBS) $(TYPESCRIPT)/src/gen $(GO_LIBRARY)/v1 $(PLAIN_PROTOS)
proto-check: proto ## fail if the committed stubs are not what protos/ makes
	@if [ -n "$$(git status --porcelain -- $(GENERATED))" ]; then \
	  git status --short -- $(GENERATED); git --no-pager diff --stat -- $(GENERATED); \
	  echo "The generated stubs differ from protos/. Run 'make proto' and commit what it makes."; exit 1; fi

proto-lint: ## buf lint (needs Node; CI forbids the skip)
	@if command -v npm >/dev/null; then \
	  test -x $(BUF) || npm --prefix tools/buf install --no-save --loglevel=error --no-audit --no-fund || exit 1; \
	  $(BUF) lint && $(BUF) format --diff --exit-code --path protos/kubevend; \
	elif [ -n "$$CI" ]; then echo "CI needs Node for buf"; exit 1; \
	else echo "skipped buf lint: Node is not installed"; fi

# The tests of the TypeScript library call it, too, and have looked for npm before.
typescript: $(TYPESCRIPT)/build/.compiled ## the TypeScript library, its tests and its driver, compiled (needs Node)

typescript-lint: ## tsc, eslint and prettier for the TypeScript library (needs Node; CI forbids the skip)
	@if command -v npm >/dev/null; then \
	  $(MAKE) --no-print-directory $(TYPESCRIPT)/node_modules/.installed && npm --prefix $(TYPESCRIPT) run --silent lint; \
	elif [ -n "$$CI" ]; then echo "CI needs Node for the TypeScript library"; exit 1; \
	else echo "skipped the lint of the TypeScript library: Node is not installed"; fi

typescript-proto: .venv/.installed
	@if command -v npm >/dev/null; then \
	  $(MAKE) --no-print-directory $(TYPESCRIPT)/node_modules/.installed && rm -rf $(TYPESCRIPT)/src/gen && mkdir $(TYPESCRIPT)/src/gen && cd protos && \
	  ../$(BIN)/python -m grpc_tools.protoc -I . -I ../$(BIN)/../lib/python3*/site-packages \
	    --plugin=protoc-gen-es=../$(TYPESCRIPT)/node_modules/.bin/protoc-gen-es --es_opt=target=ts,import_extension=js \
	    --es_out=../$(TYPESCRIPT)/src/gen $(PROTOS) google/rpc/error_details.proto google/rpc/status.proto; \
	elif [ -n "$$CI" ]; then echo "CI needs Node for the TypeScript stubs"; exit 1; \
	else echo "skipped the TypeScript stubs: Node is not installed"; fi

$(TYPESCRIPT)/build/.compiled: $(TYPESCRIPT)/node_modules/.installed $(TYPESCRIPT)/tsconfig.json \
  $(shell find $(TYPESCRIPT)/src $(TYPESCRIPT)/test $(TYPESCRIPT)/conformance -name '*.ts')
	npm --prefix $(TYPESCRIPT) run --silent compile
	@touch $@

$(TYPESCRIPT)/node_modules/.installed: $(TYPESCRIPT)/package-lock.json
	npm --prefix $(TYPESCRIPT) ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# The tests of the Java library call it, too, and have looked for Maven before.
java: $(JAVA)/conformance/target/.packaged ## the Java library and its driver, compiled (needs a JDK and Maven)

java-lint: ## javac, javadoc and palantir-java-format for the Java library (needs a JDK and Maven; CI forbids the skip)
	@if command -v mvn >/dev/null && command -v javac >/dev/null; then \
	  $(MVN) -Prelease -DskipTests package spotless:check && touch $(JAVA)/conformance/target/.packaged; \
	elif [ -n "$$CI" ]; then echo "CI needs a JDK and Maven for the Java library"; exit 1; \
	else echo "skipped the lint of the Java library: a JDK or Maven is not installed"; fi

# The jars with sources and comments are not needed for that: they take half a minute.
$(JAVA)/conformance/target/.packaged: $(shell find $(JAVA) -path '*/target' -prune -o \( -path '*/src/main/*' -type f -o -name pom.xml \) -print)
	@echo "Compiling the Java library (a minute or two the first time)"
	@$(MVN) -DskipTests package
	@touch $@

SECONDS ?= 600
fuzz: .venv/.installed ## every parser for 10 minutes each, or SECONDS=30; one alone with TARGET=settings
	@for target in $(or $(TARGET),$$($(BIN)/python -c 'from tests.fuzz.targets import TARGETS; print(*TARGETS)')); do \
	  $(BIN)/python -m tests.fuzz $$target $(SECONDS) || exit 1; done

bench: .venv/.installed ## kubevend against TokenRequest direct and OpenBao; writes bench.json
	$(BIN)/python -m tests.bench

bench-leases: .venv/.installed ## how a store with a million leases fares; writes bench-leases.json
	$(BIN)/python -m tests.bench.leases

bench-policies: .venv/.installed ## what a decision costs with 10, 100 and 1,000 access policies
	$(BIN)/python -m tests.bench.policies

bench-fairness: .venv/.installed ## what one caller notices of another's 64 at once; writes bench-fairness.json
	$(BIN)/python -m tests.bench.fairness

bench-cli: .venv/.installed ## how long the kubevend command takes to start
	$(BIN)/python -m tests.bench.cli

bench-connections: .venv/.installed ## what 10,000 connections leave in memory; writes bench-connections.json
	$(BIN)/python -m tests.bench.connections

bench-streams: .venv/.installed ## what 1,000 streams cost that are open and wait; writes bench-streams.json
	$(BIN)/python -m tests.bench.streams

lock: ## resolve the dependencies again into requirements.lock
	uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-annotate --upgrade \
	  --no-emit-package kubevend --group dev pyproject.toml -o requirements.lock

clean: ## remove what `make` made in this folder
	rm -rf .venv .dev .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis bench*.json tools/buf/node_modules
	rm -rf $(TYPESCRIPT)/node_modules $(TYPESCRIPT)/build $(TYPESCRIPT)/dist $(GO_LIBRARY)/.build $(JAVA)/target $(JAVA)/*/target

.venv/.installed: requirements.lock pyproject.toml clients/python/pyproject.toml
	@echo "Installing the Python dependencies into .venv (about a minute the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e clients/python -e .
	@touch $@
