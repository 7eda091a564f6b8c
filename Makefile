# Ferry. `make help` lists what there is to make. Needs Go and, for all but build, root and Debian.

export CGO_ENABLED = 0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GOFLAGS_BUILD = -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
PREFIX ?= /usr/local
FUZZTIME ?= 30s
# The last commit with figures of TLS and without sessions.
BEFORE ?= 4646923dc48c
PACKAGES = $(shell go list ./... | grep -v -e /test/netns -e /test/vm)

.PHONY: help build minimal demo demo-secure demo-user demo-vm demo-roam test unit netns test-vm exam bench bench-failover bench-sessions fuzz mutate lint vuln cross install clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

build: ## bin/vpnsrv, bin/vpncli and bin/ferry-penguin, static
	@mkdir -p bin
	go build $(GOFLAGS_BUILD) -o bin/ ./cmd/vpnsrv ./cmd/vpncli ./cmd/ferry-penguin

# What moves packets is inlined, the rest is small.
HOT = runtime sync/... internal/poll syscall golang.org/x/sys/unix \
	ferry/internal/tun ferry/internal/exit ferry/internal/router ferry/internal/proto ferry/internal/packet ferry/internal/carrier/... \
	crypto/internal/fips140/aes/... crypto/internal/fips140/alias crypto/internal/fips140/subtle \
	golang.org/x/crypto/chacha20poly1305 golang.org/x/crypto/chacha20 golang.org/x/crypto/internal/poly1305

minimal: ## bin/minimal/vpncli for small devices: TCP, vsock, unix and TLS; no completion, no D-Bus (GOARCH=...)
	@mkdir -p bin/minimal
	go build -tags minimal -gcflags=all=-l $(HOT:%=-gcflags=%=) $(GOFLAGS_BUILD) -o bin/minimal/ ./cmd/vpncli

demo: build ## a gateway and two clients in namespaces: addresses, pings, iperf3
	@scripts/deps.sh demo
	@scripts/demo.sh

demo-secure: build ## keys: init, invite, join, tcpdump on the wire, removal
	@scripts/deps.sh demo
	@scripts/demo-secure.sh

demo-user: build ## a gateway and a client without root: curl through SOCKS5, a forward each way
	@scripts/deps.sh demo
	@scripts/demo-user.sh

demo-vm: build ## a virtual machine with nothing of Ferry in it: DHCP, pings, a published port
	@scripts/deps.sh test
	@scripts/demo-vm.sh

demo-roam: build ## a download goes on while UDP, TCP 2002 and then all but DNS is blocked
	@scripts/deps.sh test
	@scripts/demo-roam.sh

test: lint unit netns test-vm ## everything

# What reads bytes of strangers, once more where an int has 32 bits, as on two of the targets.
NARROW = ./internal/proto ./internal/packet ./internal/l2port/... ./internal/nameserver ./internal/vtunnel

unit: ## unit tests, with the race detector
	@scripts/deps.sh test
	CGO_ENABLED=1 go test -race -shuffle=on -count=1 $(PACKAGES)
	@[ "$$(go env GOARCH)" != amd64 ] || GOARCH=386 CGO_ENABLED=0 go test -count=1 $(NARROW)

netns: build ## real interfaces and packets in network namespaces, as root
	@scripts/deps.sh test
	go test -count=1 -timeout 12m -parallel 4 ./test/netns/...

test-vm: ## vsock on a real kernel in QEMU
	@scripts/deps.sh test
	go test -count=1 -timeout 6m ./test/vm/...

exam: ## all cases of the exam, also those that take long, to docs/exam.md; wants an idle machine, an hour
	@scripts/deps.sh test
	go run ./test/tools/exam

bench: build minimal ## the table of bench/RESULTS.md, measured side by side in one run
	@scripts/deps.sh bench
	go run ./bench

bench-failover: build ## bench/FAILOVER.md: how changes of the network interrupt traffic, beside OpenVPN, wireguard-go and iodine
	@scripts/deps.sh bench
	go run ./bench -failover

bench-sessions: build ## bench/SESSIONS.md: what numbers, acknowledgements and the log of a session cost, beside a Ferry of BEFORE that had none
	@scripts/deps.sh bench
	@scripts/before.sh $(BEFORE) bin/before
	go run ./bench -before bin/before -runs 5

fuzz: ## every fuzz target for FUZZTIME
	@scripts/fuzz.sh $(FUZZTIME)

# The checks that keep strangers out.
MUTATE = ./internal/identity ./internal/policy ./internal/netadmin:judge.go ./internal/carrier/tls ./internal/peerstore \
	./internal/gateway:serve.go,enrol.go,devices.go ./internal/api:serve.go ./internal/web:bridge.go ./internal/carrier/connectip:request.go

mutate: ## every check of the authentication turned over once: a test has to fail each time
	go run ./test/tools/mutate $(MUTATE)

lint: ## gofmt, vet, staticcheck
	@test -z "$$(gofmt -s -l . | tee /dev/stderr)" || { echo 'gofmt -s -w . would change these files' >&2; exit 1; }
	go vet ./...
	go vet -tags minimal ./...
	go vet -tags exam ./test/netns
	@for p in vpnsrv vpncli ferry-penguin; do GOARCH=mipsle go build -o /dev/null ./cmd/$$p || exit 1; done
	go tool -modfile=tools/go.mod staticcheck -checks all,-ST1000 ./...
	go tool -modfile=tools/go.mod staticcheck -tags exam -checks all,-ST1000 ./test/netns

vuln: ## govulncheck; needs its database, which is on the Internet
	go tool -modfile=tools/go.mod govulncheck ./...

cross: ## all supported targets, to bin/cross
	@scripts/cross.sh '$(VERSION)'

install: build ## to PREFIX, with the systemd units
	install -D -m 0755 bin/vpnsrv $(DESTDIR)$(PREFIX)/sbin/vpnsrv
	install -D -m 0755 bin/vpncli $(DESTDIR)$(PREFIX)/sbin/vpncli
	install -D -m 0755 bin/ferry-penguin $(DESTDIR)$(PREFIX)/sbin/ferry-penguin
	install -D -m 0644 -t $(DESTDIR)/etc/systemd/system configs/systemd/*.service configs/systemd/*.path
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/lib/sysusers.d configs/sysusers.d/ferry.conf
	@test -n "$(DESTDIR)" || ! command -v systemd-sysusers >/dev/null || systemd-sysusers $(PREFIX)/lib/sysusers.d/ferry.conf
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/ferry configs/*.toml README.md

clean: ## remove what was built
	rm -rf bin
