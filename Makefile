# wxgate: `make test` is all that a change needs; `.ci/run` calls it and more.

GOTESTSUM     := go run gotest.tools/gotestsum@v1.13.0
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME      ?= 1m

GORELEASER    := github.com/goreleaser/goreleaser/v2@v2.17.0
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: build test race fuzz lint screenshots bench cross setup vulnerabilities release-dry-run

# The binary with the standard modules and wxgate: .build/wxgate
build:
	go build -o .build/wxgate ./caddy-build

# Every test there is, against the real binary, Badger on disk and a real Redis.
test: setup build
	$(GOTESTSUM) --format pkgname -- -count=1 -timeout 20m ./...
	WXGATE_BINARY=$(CURDIR)/.build/wxgate node --test --test-concurrency=1 docs/miniprogram/test/*.test.js
	cd caddy-build/browser && npm ci --no-audit --no-fund --silent
	WXGATE_BINARY=$(CURDIR)/.build/wxgate node --test caddy-build/browser/*.test.js

# The same under the race detector; the gateway that the tests start, too. The
# tests of the documents have nothing that could race.
race: setup
	$(GOTESTSUM) --format pkgname -- -race -count=1 -timeout 40m -skip '^Test(EveryCodeBlockLoads|EveryCommandIsExplained|EveryNameIsExplained|NamesInDocumentsExist|EveryOptionIsLinked|ComposeTopology|DemoAsPrinted)$$' ./...

# Each fuzz target for FUZZTIME; `make test` runs what they found before.
fuzz:
	.ci/fuzz $(FUZZTIME)

# Formatting, the Go linters, and what reads what an operator installs.
lint:
	test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	go vet ./...
	go install $(GOLANGCI_LINT)
	"$$(go env GOPATH)/bin/golangci-lint" run ./...
	npx --yes dockerfile-utils@0.16.3 lint docs/install/Dockerfile
	cd .ci/kubernetes && go run . ../../docs/install/kubernetes.yaml
	cd docs/miniprogram && npm ci --no-audit --no-fund --silent && npm run --silent check

# The pictures of the demo in docs/images.
screenshots: setup build
	mkdir -p docs/images
	cd caddy-build/browser && npm ci --no-audit --no-fund --silent
	WXGATE_BINARY=$(CURDIR)/.build/wxgate node caddy-build/browser/screenshots.js

# The load comparison of docs/performance.md.
bench: build
	go run ./caddy-build/bench

# Does it build where it is installed?
cross:
	for target in linux/amd64 linux/arm64 darwin/arm64 windows/amd64; do \
		echo "$$target"; \
		CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} go build -o /dev/null ./caddy-build || exit 1; \
	done

# Known vulnerabilities in what the gateway calls. It asks vuln.go.dev.
vulnerabilities:
	go run $(GOVULNCHECK) ./caddy-build

# What a release has, in .build/dist, without what needs a network of its own.
release-dry-run:
	go run $(GORELEASER) check
	go run $(GORELEASER) release --snapshot --clean --skip=sign,sbom

# What the tests run besides Go.
setup:
	.ci/setup
