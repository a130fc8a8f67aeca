# What one can do here. Everything that is more than a line is a script in .ci/.

GO       ?= go
FUZZTIME ?= 4s
TOOL      = $(GO) tool -modfile=.ci/go.mod

.PHONY: build run test race fuzz bench bench-relay cluster cluster-test cluster-test-long abuse chaos loadtest soak prove-ledger check \
	house slow tools

build:
	CGO_ENABLED=0 $(GO) build -trimpath -tags timetzdata -o bin/millrace .

# The same with OpenSSL's libcrypto, which signs in a third of the time. It is linked with C: docs/deploy.md has what that
# costs.
.PHONY: build-openssl
build-openssl:
	GO=$(GO) .ci/openssl build -trimpath -tags timetzdata,netgo,osusergo,openssl -o bin/millrace-openssl .

run: build
	exec bin/millrace dev

test: tools
	$(GO) run .ci/gotest.go -timeout 10m ./...

race: tools
	$(GO) run .ci/gotest.go -timeout 20m -race ./...

fuzz:
	GO=$(GO) .ci/fuzz $(FUZZTIME)

bench:
	$(GO) test -bench . -run '^$$' -benchmem ./bench/...

# Beside HAProxy, on a machine that does nothing else: medians and quartiles of ratios of the same round. The result takes the place of
# the last one on a processor of this model. QUICK=1: few messages, and nothing is kept.
bench-relay: tools
	$(GO) run ./loadtest/benchrelay $(if $(QUICK),-quick,-record bench/results/relay)

# What the ledger costs: nodes with and without it in turns, ROUNDS times (15), and the hash by itself.
.PHONY: bench-once
bench-once: tools
	$(GO) test -run '^$$' -bench Hash -benchtime $(or $(ROUNDS),15)x ./ingress/message/once
	$(GO) test -run '^$$' -bench Once -benchtime $(or $(ROUNDS),15)x ./bench

# The same beside Postfix, Exim, Haraka and OpenSMTPD, and with the whole policy beside Postfix with its milters: twelve
# minutes of an idle machine, as root. Writes bench/results/peers.json, peers.md and the table of README.md. QUICK=1: a minute,
# and nothing is written; RESUME=1 goes on with a run that was broken off.
.PHONY: peers
peers: build tools
	@.ci/tools peers
	@$(GO) build -o bin/benchrelay ./loadtest/benchrelay
	@exec bin/benchrelay -peers -binary bin/millrace $(if $(QUICK),-quick) $(if $(RESUME),-resume)

# A cluster to play with: three nodes, Redis, destinations and HAProxy on loopback, until Ctrl-C.
cluster: build tools
	$(GO) build -o bin/clustertest ./loadtest/clustertest
	exec bin/clustertest -binary bin/millrace -stay

# What is promised of a cluster, shown on processes that are killed, stopped and restarted. The verdict is the last line.
cluster-test: build tools
	$(GO) build -o bin/clustertest ./loadtest/clustertest
	@exec bin/clustertest -binary bin/millrace

# The same with the steps that take minutes.
cluster-test-long: build tools
	$(GO) build -o bin/clustertest ./loadtest/clustertest
	@exec bin/clustertest -binary bin/millrace -long

# Strangers that take what others need, and honest mail beside them, at the size of real attacks: ten minutes.
# QUICK=1: what is short enough for each commit.
abuse: build tools
	@$(GO) build -o bin/abuse ./loadtest/abuse
	@exec bin/abuse -binary bin/millrace $(if $(QUICK),-quick) $(if $(RUN),-run $(RUN))

# Every state of the model of the ledger, with up to three things that go wrong. The verdict is the last line.
prove-ledger:
	@$(GO) build -o bin/proveledger ./loadtest/proveledger
	@exec bin/proveledger

# What breaks under a cluster while mail runs, and the ledger of truth. SCENARIO=name SEED=n repeats one, RUNS=n says how
# often it does its harm, and KILLS=n how often it kills besides; QUICK=1: what is short enough for each commit. docs/chaos.md has the names.
chaos: build tools
	@$(GO) build -o bin/chaos ./loadtest/chaos
	@exec bin/chaos -binary bin/millrace $(if $(QUICK),-quick) $(if $(SCENARIO),-scenario $(SCENARIO)) \
		$(if $(SEED),-seed $(SEED)) $(if $(RUNS),-runs $(RUNS)) $(if $(KILLS),-kills $(KILLS))

# As much mail as goes through a cluster, what it costs, and the ledger of truth: eight minutes. QUICK=1: a part of it in half
# a minute; PART=mix,rate: some of it; SEED=n: the same choices; RECORD=1: the result goes to bench/results, too.
loadtest: build tools
	@$(GO) build -o bin/load ./loadtest/load
	@exec bin/load -binary bin/millrace $(if $(QUICK),-quick) $(if $(PART),-part $(PART)) $(if $(SEED),-seed $(SEED)) \
		$(if $(RECORD),-record bench/results)

# A cluster at half of what it can do, for MINUTES (an hour), and what grows meanwhile. The verdict is the last line.
soak: build tools
	@$(GO) build -o bin/soak ./loadtest/soak
	@exec bin/soak -binary bin/millrace $(if $(MINUTES),-minutes $(MINUTES))

# Traces of a cluster in a real OpenTelemetry Collector. It is built once, of ../shared; without that there is none.
.PHONY: traces
traces:
	@test ! -d ../shared || test -x .cache/collector/otelcol || { mkdir -p .cache/collector && \
		../shared/testbed/build-collector.sh "$(CURDIR)/.cache/collector/otelcol"; }
	@test ! -d ../shared || $(GO) test -count 1 -tags collector -run Collector ./loadtest/nodes

# The rows of docs/postmaster.md and the types and defaults of docs/configuration.md, as the code has them.
.PHONY: docs
docs:
	WRITE=1 $(GO) test -count 1 -run 'TestPostmaster$$|TestReference$$' . ./cluster/config

check:
	test -z "$$(gofmt -l . | tee /dev/stderr)"
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	test -z "$$($(TOOL) deadcode -test ./... | tee /dev/stderr)"

# The figures of the house: sizes of types, interfaces, unset fields, words, columns, and calls from socket to socket.
house:
	@$(GO) run -modfile=.ci/go.mod .ci/house.go
	@$(GO) test -count 1 -run 'Depth' -v ./bench

# What is shipped of the last commit, in dist/: static binaries for amd64 and arm64, each built twice and compared, their
# parts (CycloneDX), .deb and .rpm. QUICK=1: the second build takes the cache of the first. The verdict is that of the tests
# that unpack, verify and run it all.
.PHONY: dist
dist: tools
	@.ci/tools deploy
	@GO=$(GO) .ci/dist
	@$(GO) test -count 1 -tags dist -run Dist ./deploy

# The dashboard of a node in Chromium: each page in both languages, wide and narrow, by axe and by the keyboard. SHOTS=DIR
# keeps pictures of the pages.
.PHONY: browser
browser: tools
	@.ci/tools browser
	@SHOTS=$(SHOTS) $(GO) test -count 1 -tags browser -run TestDashboard -v ./loadtest/browser

# What takes too long for each commit: race detector, linters, vulnerabilities.
slow: tools
	@GO=$(GO) .ci/slow

# The programs that tests speak with (Postfix's smtp-sink, Exim, Dovecot, HAProxy ...), and the messages and suites of
# others that they read, unpacked into .cache/.
tools:
	@.ci/tools
	@.ci/data
