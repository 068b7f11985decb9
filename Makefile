# Everything goes into .venv; nothing outside this directory is changed, but for system
# packages that the build lacks, which root gets installed.
#
#   PYTHON=python3.12     the interpreter to make .venv with
#   K8STRACE_BUILD=debug  how the extension is compiled: release, debug, sanitize
#   ARGS="…"              arguments for what is run: run, demo, test, bench, kube-spans
#   ONLY=                 a part of soak's, faults' or fuzz's work, by name; TIMES=, SECONDS= of it
#   GO=                   leave out what takes Go; tests that need it are skipped
#   RELEASES= USERS= SHORT=1   what releases tries: suites, root and user, the fast tests only
#   ONLY= SIZES= ROUNDS= FRESH=1   what bench-peers measures; ROTEL= DF_ENGINE= rivals' binaries

PYTHON ?= python3
GO ?= $(shell command -v go)
K8STRACE_BUILD ?= release
export K8STRACE_BUILD

# Scripts in .venv/bin carry the path in their first line, where spaces and long paths
# break them; modules have no such trouble.
BIN := .venv/bin/python
PYTEST := $(BIN) -m pytest
CYTHON := $(wildcard k8strace/*.pyx k8strace/*.pxd)
STUBS := $(patsubst k8strace/%.pyi,k8strace.%,$(wildcard k8strace/*.pyi))
ASAN = $(shell cc -print-file-name=libasan.so):$(shell cc -print-file-name=libstdc++.so.6)
REPORTS := .venv/sanitizers
ASAN_FLAGS := detect_leaks=0:quarantine_size_mb=16:handle_sigill=2:log_path=$(CURDIR)/$(REPORTS)/report
BUILT := .venv/.built-$(K8STRACE_BUILD)
INSTALLED = $(or $(firstword $(wildcard .venv/.built-*)),$(BUILT))
PEERS := .venv/peers
COLLECTOR := $(PEERS)/collector
ROTEL_VERSION := 0.0.1a15
ROTEL_AGENT = 'import pathlib, rotel; agent = pathlib.Path(rotel.__file__).with_name("rotel-agent"); agent.chmod(0o755); print(agent)'
export ROTEL DF_ENGINE

GO_BIN := .venv/go/bin
GO_PEERS := $(addprefix $(GO_BIN)/,grpcpeer h2spec telemetrygen)
DEPLOY_TOOLS := $(addprefix $(GO_BIN)/,helm promtool)

FAULTS := .venv/faults/results.json

FUZZ := .venv/fuzz
FUZZED := $(FUZZ)/.built
FUZZ_TARGETS := $(notdir $(wildcard tests/fuzz/corpus/*))
ATHERIS_VERSION := 3.0.0

# Tests wait more than they compute; more than two at once make each other slow on two cores.
PARALLEL := -n 2 --dist worksteal

.PHONY: help build run demo test conformance soak faults faults-docs go-peers kube releases lint types check sanitize fuzz bench peers peers-rotel bench-peers bench-peers-docs kube-spans docs manifests deploy-tools deploy-checks clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 14

build: $(BUILT) ## set everything up in .venv and compile the extension

run: build ## start the gateway; ARGS="--config my.yaml"
	$(BIN) -m k8strace.gateway $(ARGS)

demo: build ## send it spans, shaped as a kube-apiserver's; ARGS="--help"
	$(BIN) -m k8strace.demo $(ARGS)

test: build $(if $(GO),go-peers) ## the whole suite, its fast part with asyncio's debug mode, the benchmarks once
	$(PYTEST) $(PARALLEL) $(ARGS)
	PYTHONASYNCIODEBUG=1 $(PYTEST) $(PARALLEL) -m "not slow" $(ARGS)
	$(PYTEST) benchmarks --benchmark-disable

conformance: build go-peers peers ## both gRPC engines with all their peers; needs Go
	$(PYTEST) $(PARALLEL) tests/conformance $(ARGS)

soak: build go-peers ## 20 times what the suite does with connections, requests and kill -9; TIMES=, ONLY=
	$(PYTEST) $(PARALLEL) --timeout 3600 tests/conformance/test_soak.py \
		tests/end_to_end/test_stored.py::test_kill_9_under_load_loses_nothing \
		--soak $(or $(TIMES),20) $(if $(ONLY),-k "$(ONLY)") $(ARGS)

faults: build ## kill, flood and fill it up for long; goes on where it stopped; ONLY=, FRESH=1
	$(if $(FRESH),rm -f $(FAULTS))
	$(PYTEST) -n 4 --dist worksteal tests/faults --faults $(FAULTS) --timeout 7200 $(if $(ONLY),-k "$(ONLY)") $(ARGS)

faults-docs: build ## write the table of docs/reliability.md from what came of the faults
	$(BIN) -m scripts.fault_table

kube: build $(GO_BIN)/helm ## a real kube-apiserver and etcd through the gateway; builds them once, with Go
	GO="$(GO)" $(BIN) -m tests.end_to_end.kube.binaries
	$(PYTEST) tests -m control_plane --kube $(ARGS)

go-peers: $(GO_PEERS) ## build the tests' peers in Go: grpc-go at both ends, h2spec, telemetrygen

$(GO_BIN)/grpcpeer: $(wildcard tests/conformance/go/*.* tests/conformance/go/grpcpeer/*)
	$(go-build) ./grpcpeer
	@touch $@

$(GO_BIN)/h2spec: $(wildcard tests/conformance/go/*.*)
	$(go-build) github.com/summerwind/h2spec/cmd/h2spec
	@touch $@

$(GO_BIN)/telemetrygen: $(wildcard tests/conformance/telemetrygen/*)
	$(go-build) github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen
	@touch $@

define go-build
@test -n "$(GO)" || { echo 'Install Go to build the peers of tests: https://go.dev/dl' >&2; exit 2; }
cd $(dir $(firstword $^)) && "$(GO)" build -trimpath -ldflags='-s -w' -o "$(CURDIR)/$(GO_BIN)/"
endef

# Before anything is built: each root builds for itself.
releases: ## the README's two commands on Debian 12 and 13; needs root and debootstrap; RELEASES=, USERS=, SHORT=1
	$(PYTHON) -m scripts.releases $(if $(RELEASES),--releases "$(RELEASES)") \
		$(if $(USERS),--users "$(USERS)") $(if $(SHORT),--short)

lint: build ## ruff (rules, format) and cython-lint
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(BIN) -m cython_lint.cython_lint $(CYTHON)

types: build ## mypy, strict, and the stubs against the compiled modules
	$(BIN) -m mypy
	$(BIN) -m mypy.stubtest $(STUBS)

check: lint types test ## lint, types, test

# Objects are had from malloc, so that the sanitizers see where each of them ends. Processes
# that tests start inherit it all; what is found, even in one that is killed, is a report.
# Undefined behaviour is a report of SIGILL, with the line of C.
sanitize: $(if $(GO),go-peers) ## the suite under the address and undefined-behaviour sanitizers
	@$(MAKE) --no-print-directory build K8STRACE_BUILD=sanitize
	@rm -rf $(REPORTS) && mkdir -p $(REPORTS)
	status=0; env PYTHONMALLOC=malloc LD_PRELOAD="$(ASAN)" ASAN_OPTIONS=$(ASAN_FLAGS) \
		$(PYTEST) $(PARALLEL) --timeout 600 $(ARGS) || status=$$?; \
	$(MAKE) --no-print-directory build K8STRACE_BUILD=release; \
	for report in $(REPORTS)/*; do \
		test ! -e "$$report" || { echo "$$report:"; cat "$$report"; status=1; } >&2; \
	done; exit $$status

fuzz: $(FUZZED) ## each target for SECONDS=60, with sanitizers; ONLY= names one, REPLAY= its input; needs clang
	@mkdir -p $(FUZZ)/found $(foreach name,$(FUZZ_TARGETS),$(FUZZ)/corpus/$(name))
	@touch $(FUZZ)/found/.begun
	$(foreach name,$(if $(ONLY),$(ONLY),$(FUZZ_TARGETS)),$(fuzz-target))

# What is found is printed whole: the machine that found it may be gone tomorrow.
define fuzz-target
env PYTHONMALLOC=malloc LD_PRELOAD=$(CURDIR)/$(FUZZ)/site/asan_with_fuzzer.so \
	ASAN_OPTIONS=detect_leaks=0 PYTHONSAFEPATH=1 PYTHONPATH=$(FUZZ)/lib:.:$(FUZZ)/site \
	$(BIN) -m tests.fuzz $(name) -timeout=20 -rss_limit_mb=4096 $(or $(REPLAY),$(fuzz-on)) || { \
	found="$(or $(REPLAY),$$(find $(FUZZ)/found -name '$(name)-*' -newer $(FUZZ)/found/.begun))"; \
	for one in $$found; do \
	echo "$(name) breaks on $$one, in base64:"; base64 "$$one"; \
	echo "Again: make fuzz ONLY=$(name) REPLAY=$$one"; done; exit 1; } >&2

endef

fuzz-on = -max_total_time=$(or $(SECONDS),60) -print_final_stats=1 \
	-artifact_prefix=$(FUZZ)/found/$(name)- $(FUZZ)/corpus/$(name) tests/fuzz/corpus/$(name)

# Beside the modules in use, whose place they don't take.
$(FUZZED): pyproject.toml setup.py $(wildcard k8strace/*.p* k8strace/*/*.p*) | $(INSTALLED)
	@command -v clang >/dev/null || { echo 'Install clang to fuzz: apt-get install clang' >&2; exit 2; }
	$(BIN) -m pip install --quiet --target $(FUZZ)/site --upgrade --no-deps atheris==$(ATHERIS_VERSION)
	CC=clang LDSHARED='clang -shared' K8STRACE_BUILD=fuzz $(BIN) setup.py --quiet \
		build --build-base $(FUZZ)/build --build-lib $(FUZZ)/lib
	@touch $@

bench: build ## measure; prints one table
	$(PYTEST) benchmarks --quiet --benchmark-quiet $(ARGS)

peers: $(COLLECTOR) ## build the OpenTelemetry Collector that k8strace is compared with; needs Go

# Rebuilt when what it is made of changes; the first time takes minutes of CPU.
$(COLLECTOR): $(wildcard benchmarks/peers/collector/*) | .venv/.created
	@command -v go >/dev/null || { echo 'Install Go to build the Collector: https://go.dev/dl' >&2; exit 2; }
	cd benchmarks/peers/collector && go build -trimpath -ldflags='-s -w' -o "$(CURDIR)/$@" .

peers-rotel: $(PEERS)/rotel ## get the pre-release of Rotel that PyPI has, into a place of its own

$(PEERS)/rotel: | .venv/.created
	"$(PYTHON)" -m venv $(PEERS)/rotel-venv
	$(PEERS)/rotel-venv/bin/python -m pip install --quiet --no-deps rotel==$(ROTEL_VERSION)
	ln -sf "$$($(PEERS)/rotel-venv/bin/python -c $(ROTEL_AGENT))" $@

bench-peers: build peers ## measure beside the Collector and others; goes on where it stopped
	$(BIN) -m benchmarks.peers $(if $(ONLY),--only "$(ONLY)") $(if $(SIZES),--sizes "$(SIZES)") \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(FRESH),--fresh)

bench-peers-docs: build ## write the tables of docs/benchmarks.md from what was measured
	$(BIN) -m benchmarks.peers.docs

kube-spans: build ## replay a recording through a gateway and compare; SPANS=recording.tar.gz
	@test -n "$(SPANS)" || { echo 'Name the recording: make kube-spans SPANS=…' >&2; exit 2; }
	$(BIN) -m scripts.kube_spans "$(SPANS)" $(ARGS)

docs: build ## write the option tables of docs/components anew
	$(BIN) -m scripts.option_tables

manifests: build $(GO_BIN)/helm ## write deploy/manifests, the dashboard and the table of values anew; needs Go
	$(BIN) -m scripts.manifests $(GO_BIN)/helm
	$(BIN) -m scripts.dashboard
	$(BIN) -m scripts.helm_values

deploy-checks: build deploy-tools ## the chart, its manifests, alerts and dashboard; needs Go
	$(PYTEST) $(PARALLEL) tests/deploy $(ARGS)

deploy-tools: $(DEPLOY_TOOLS) ## build helm and promtool; the first time takes minutes of CPU

$(GO_BIN)/helm: $(wildcard tests/deploy/go/helm/*)
	$(go-build) helm.sh/helm/v3/cmd/helm
	@touch $@

# Without the ways to find targets, which are most of it.
$(GO_BIN)/promtool: $(wildcard tests/deploy/go/promtool/*)
	$(go-build) -tags=remove_all_sd github.com/prometheus/prometheus/cmd/promtool
	@touch $@

clean: ## remove all that make has made, .venv too
	rm -rf .venv build dist k8strace.egg-info .benchmarks .hypothesis \
		.mypy_cache .pytest_cache .ruff_cache benchmarks/peers/.results
	find k8strace -name '*.so' -delete
	find k8strace scripts tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
	rm -f $(patsubst %.pyx,%.c,$(wildcard k8strace/*.pyx))

.venv/.created:
	sh scripts/system-packages "$(PYTHON)"
	"$(PYTHON)" -m venv .venv
	@touch $@

# The build requirements are installed first and used as they are: an isolated build would
# fetch its own Cython each time. What is there already is not fetched again.
$(BUILT): pyproject.toml setup.py $(CYTHON) | .venv/.created
	$(if $(filter pyproject.toml,$?),$(INSTALL),$(COMPILE))
	@rm -f .venv/.built-*
	@touch $@

COMPILE = $(BIN) setup.py --quiet build_ext --inplace

define INSTALL
@echo "Installing k8strace and what it needs into .venv; the first time takes a minute."
@$(BIN) -c $(REQUIREMENTS) >.venv/build-requirements.txt
$(BIN) -m pip install --quiet --requirement .venv/build-requirements.txt
$(BIN) -m pip install --quiet --no-build-isolation --editable '.[dev]'
endef

REQUIREMENTS = 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'
