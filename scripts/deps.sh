#!/bin/bash
# Installs the Debian packages that the demo, the tests and the benchmarks need and that are missing, and
# into bin/peers the programs in Go that Ferry is compared with. This is the one place that names them.
#
#   scripts/deps.sh demo|test|bench
set -euo pipefail

demo="iproute2 iputils-ping iperf3 procps tcpdump curl python3 util-linux"
test="$demo openssh-client nftables conntrack dnsmasq-base unbound bind9-dnsutils dbus-daemon strace qemu-system-x86 busybox-static kmod lz4 chromium-headless-shell"
bench="$demo nftables conntrack openvpn iodine openssh-client openssh-server"

case "${1:-}" in
demo) want=$demo ;;
test) want=$test ;;
bench) want=$bench ;;
*) echo "usage: $0 demo|test|bench" >&2; exit 2 ;;
esac

peer() { # PROGRAM PACKAGE@VERSION
    local at; at=$(dirname "$0")/../bin/peers
    [ -x "$at/$1" ] || { echo "installing $2"; mkdir -p "$at"; GOBIN=$(cd "$at" && pwd) go install "$2"; }
}
if [ "$1" = bench ]; then
    peer wireguard golang.zx2c4.com/wireguard@v0.0.0-20260522210424-ecfc5a8d5446
fi
if [ "$1" != demo ]; then # tests compare with them, too
    peer gvproxy github.com/containers/gvisor-tap-vsock/cmd/gvproxy@v0.8.9
    peer vm github.com/containers/gvisor-tap-vsock/cmd/vm@v0.8.9 # its forwarder
fi

missing=
for p in $want; do
    [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$p" 2>/dev/null)" = "ii " ] || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "these Debian packages are missing:$missing" >&2
    exit 1
fi
echo "installing:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=120 --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -20 "$log" >&2
    exit 1
fi
