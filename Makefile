# Copyright The otelcol-llamacpp Authors
# SPDX-License-Identifier: Apache-2.0

SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS     += --no-print-directory

# How long the demo runs; 0: until Ctrl-C.
DURATION ?= 0
# How long each fuzz target runs; which benchmarks run, and how often.
FUZZTIME   ?= 10s
BENCH      ?= .
BENCHCOUNT ?= 6
# How long each fleet of simulated servers is watched.
FLEETTIME  ?= 1m

BINARY := bin/otelcol-llamacpp
# What `make release` builds for, and where it leaves the results.
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64
DIST      := bin/dist

# A tag vX.Y.Z on the commit is the version; any other commit has the next version and its hash, always with
# twelve digits, so that every clone builds the same bytes.
NEXT_VERSION := 0.1.0-dev
VERSION      ?= $(shell tools/version $(NEXT_VERSION))

# Pinned in tools/go.mod; Go keeps the linked tools in its build cache.
TOOL      := go tool -modfile=$(CURDIR)/tools/go.mod
GOTESTSUM := $(TOOL) gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg

# Prints what begins, and when.
STEP = @printf -- '--- %s %s\n' "$$(date +%T)"

# Modules of this repository, as folders; _build is generated.
MODULES = $(shell git ls-files -co --exclude-standard -- go.mod '*/go.mod' | xargs -r -n1 dirname | sort -u)
# Modules besides the product's that have tests or benchmarks.
SIDE_MODULES = $(filter-out . tools tools/%,$(MODULES))

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: prerequisites
prerequisites:
	@command -v go >/dev/null || { echo "make: go is not on PATH: install Go 1.26 or newer, https://go.dev/doc/install" >&2; exit 1; }
	@command -v git >/dev/null || { echo "make: git is not on PATH: apt-get install git (or your system's equivalent)" >&2; exit 1; }
	@cc=$$(go env CC); command -v $${cc%% *} >/dev/null || { echo "make: the C compiler $$cc is not on PATH and the collector needs cgo: apt-get install gcc libc6-dev, or set CC" >&2; exit 1; }

.PHONY: build
build: llamaload ## Build bin/otelcol-llamacpp and bin/llamaload
	@mkdir -p bin
	$(STEP) "build $(BINARY) $(VERSION) (the first time takes minutes)"
# The builder reads settings from variables named like its configuration keys.
	@env 'dist.version=$(VERSION)' $(TOOL) builder --config builder-config.yaml >bin/build.log 2>&1 || { cat bin/build.log >&2; exit 1; }
# Renamed into place, so that a running collector keeps its file.
	@cp _build/otelcol-llamacpp $(BINARY).new && mv $(BINARY).new $(BINARY)

.PHONY: llamaload
llamaload: prerequisites ## Build bin/llamaload, the load generator, alone: seconds
	@mkdir -p bin
	$(STEP) "build bin/llamaload $(VERSION)"
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -X main.release=$(VERSION)' -o bin/llamaload ./cmd/llamaload

.PHONY: packaging-tools
packaging-tools: prerequisites
	$(STEP) "build the tools that make packages (the first time takes a minute)"
	@cd tools/packaging && go build -o ../../bin/ tool

.PHONY: release
release: build packaging-tools ## Build archives, Debian packages, bills of materials and checksums into bin/dist (PLATFORMS=linux/amd64); uploads nothing
	$(STEP) "release $(VERSION), without uploading it"
	@tools/release '$(VERSION)' $(DIST) $(PLATFORMS)

.PHONY: demo
demo: build ## Watch a llama-server live: a running one, the one on PATH with MODEL=file.gguf, or the simulator (DURATION=20s)
	$(STEP) "demo"
# In the place of the shell, not under `go run`: signals to make reach it, and it ends what it has started.
	@go build -o bin/llamademo ./cmd/llamademo && exec bin/llamademo -duration "$(DURATION)" $(DEMO_FLAGS)

# Programs that the tests run, each installed by test/cmd/install-NAME.
TEST_PROGRAMS := llama-server journal prometheus alertmanager jaeger kubernetes page-tools podman packaging

.PHONY: test-programs
test-programs: prerequisites
	$(STEP) "install what the tests run: $(TEST_PROGRAMS) (the first time takes minutes)"
	@for program in $(TEST_PROGRAMS); do go run ./test/cmd/install-$$program || exit 1; done

.PHONY: test
test: build packaging-tools generate-check test-programs ## Install what the tests need and run all of them
	$(STEP) "does everything compile for other systems?"
	@go run ./test/cmd/check-platforms linux/arm64 darwin/amd64 darwin/arm64 windows/amd64
	@$(MAKE) fuzz FUZZTIME=3s
	@$(MAKE) demo DURATION=20s DEMO_FLAGS=-simulator
# Last, so that the closing lines are the tests' own. A few that fail beside all the others, on a machine that is
# shared, are run again by themselves, and are listed as failed in any case; after a data race or a panic none is.
	$(STEP) "test"
	@$(GOTESTSUM) --rerun-fails=1 --rerun-fails-max-failures=8 --rerun-fails-run-root-test \
		--rerun-fails-abort-on-data-race --packages=./... -- -race -timeout 20m

.PHONY: race
race: prerequisites ## Run the unit tests under the race detector, repeatedly
	@$(GOTESTSUM) -- -race -short -count=5 -timeout 30m $$(go list ./... | grep -v /test/)

.PHONY: e2e
e2e: build packaging-tools test-programs ## Run the end-to-end tests against the real programs
	@$(GOTESTSUM) --format testname -- -count=1 -timeout 20m ./test/...

.PHONY: test-gpu
test-gpu: prerequisites ## Compare the GPU metrics with nvidia-smi, and run a small load, if there is an NVIDIA GPU
	@if ! command -v nvidia-smi >/dev/null; then \
		echo "make: nvidia-smi, which comes with NVIDIA's driver, is not on PATH: nothing was tested"; \
	elif ! gpus=$$(nvidia-smi -L 2>&1) || [[ $$gpus != GPU* ]]; then \
		printf 'make: nvidia-smi -L lists no GPU: nothing was tested. It says:\n%s\n' "$$gpus"; \
	else \
		printf -- '--- %s GPU metrics, against nvidia-smi and under a small load, on:\n%s\n' "$$(date +%T)" "$$gpus"; \
		export CGO_ENABLED=1; \
		go test -tags gpu -count=1 -v ./test/realgpu; \
		printf -- '--- %s what one sample costs\n' "$$(date +%T)"; \
		go test -run '^$$' -bench Driver -benchmem -tags gpu ./receiver/llamacppreceiver/internal/gpu; \
	fi

.PHONY: fuzz
fuzz: prerequisites ## Run every fuzz target (FUZZTIME=10s each)
	@tools/fuzz $(FUZZTIME)

.PHONY: bench
bench: build ## Run the benchmarks and comparisons of docs/performance.md (BENCH=regexp, BENCHCOUNT=6, FLEETTIME=1m)
	@go test -run '^$$' -bench '$(BENCH)' -benchmem -count $(BENCHCOUNT) ./... | grep -v 'no test files' | tee bin/bench.txt
	@$(TOOL) benchstat bin/bench.txt
	$(STEP) "one scrape, against a bare GET and the Prometheus receiver"
	@cd bench && go test -run '^$$' -bench Scrape -benchtime 1x -count $(BENCHCOUNT) . | tee ../bin/bench-scrape.txt
	@$(TOOL) benchstat bin/bench-scrape.txt
	$(STEP) "lines of the server's log, against regex_parser"
	@cd bench && go test -run '^$$' -bench Lines -count $(BENCHCOUNT) . | tee ../bin/bench-lines.txt
	@$(TOOL) benchstat bin/bench-lines.txt
	@cd bench && go run ./log
	$(STEP) "fleets of simulated servers, $(FLEETTIME) each"
	@cd bench && go run ./fleet -duration $(FLEETTIME)
	$(STEP) "the load generator, against vegeta and k6 (their first build takes minutes)"
	@cd tools/load && go build -o ../../bin/ tool
	@go build -o bin/ ./cmd/llamaload
	@cd bench && go run ./load
	$(STEP) "the proxy, against the direct way, nginx and Caddy (takes a quarter of an hour)"
	@go run ./test/cmd/install-proxies
	@cd bench && go run ./proxy
	$(STEP) "the page, with a day of history (takes half an hour)"
	@go run ./test/cmd/install-page-tools
	@cd bench && go run ./dashboard
	$(STEP) "what being watched costs the real server"
	@go run ./test/cmd/install-llama-server
	@cd bench && go run ./effect

.PHONY: generate
generate: prerequisites ## Regenerate code and documentation from metadata.yaml and other sources
	@go generate ./...

.PHONY: generate-check
generate-check: prerequisites
	$(STEP) "are generated files up to date?"
	@tools/check-generated

.PHONY: lint
lint: prerequisites generate-check ## Check formatting, modules, generated files and code
	$(STEP) "gofumpt"
# Given directories, gofumpt skips generated files.
	@unformatted=$$(git ls-files -co --exclude-standard -- '*/*.go' | cut -d/ -f1 | sort -u | xargs $(TOOL) gofumpt -l); \
		[ -z "$$unformatted" ] || { printf 'not gofumpt-formatted, run make format:\n%s\n' "$$unformatted" >&2; exit 1; }
	$(STEP) "go mod tidy"
	@for module in $(MODULES); do (cd "$$module" && go mod tidy -diff) || { echo "run go mod tidy in $$module" >&2; exit 1; }; done
# Packages come from wherever the machine's own settings say.
	$(STEP) "names of package registries"
	@! git grep -nIE '(proxy|sum)[.]golang|registry[.]npmjs|(deb|ftp|snapshot)[.]debian' -- . ':!*go.sum' \
		|| { echo "name no package registry's host: leave it to GOPROXY, sources.list and the like" >&2; exit 1; }
	$(STEP) "go vet"
	@for module in . $(SIDE_MODULES); do (cd "$$module" && go vet ./...); done
	@for module in tools/packaging tools/kafka tools/compose; do (cd "$$module" && go vet ./...); done
	@go vet -tags gpu ./test/realgpu ./receiver/llamacppreceiver/internal/gpu
	$(STEP) "golangci-lint"
	@$(TOOL) golangci-lint run ./...

.PHONY: format
format: ## Format the Go code and order imports
	@$(TOOL) golangci-lint fmt

.PHONY: clean
clean: ## Remove everything that make has built
	@rm -rf bin _build coverage.out
