#!/bin/bash
# The demonstration of carriers: a client downloads through the tunnel while one way out after the other is closed, without a
# word, and opened again. The log says what was chosen, and why.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/demo-net.sh

say "A gateway that serves UDP, TCP, WebSocket and SSH"
ip netns exec $gw bin/vpnsrv init --state "$work/state" --config "$work/vpnsrv.toml" >/dev/null
start $gw gateway bin/vpnsrv --config "$work/vpnsrv.toml" --listen udp://:2002 --listen 'tcp://:2002?allow=tls' --listen wss://:443 --listen ssh://:2022
await gateway "msg=serving"

say "A client joins, connects, and learns what else there is"
invitation=$(ip netns exec $gw bin/vpnsrv invite cam1 --state "$work/state" --server 192.168.101.1 | head -1)
ip netns exec $one bin/vpncli join "$invitation" --state "$work/one" >/dev/null
start $one one bin/vpncli --state "$work/one"
await one "msg=connected"
start $gw iperf3-gateway iperf3 -s --forceflush
await iperf3-gateway "Server listening"

story() { # prints what the client has said since the last time
    tail -n "+$((told + 1))" "$work/one.log" | sed -n 's/^time=[^T]*T\([0-9:.]*\)Z level=[A-Z]* msg=\(connected\|switched\|"not connected"\) /    \1 \2 /p'
    told=$(wc -l <"$work/one.log")
}
told=0
close() { # WHAT RULE...: closes, and gives the client time
    say "$1"
    ip netns exec $gw nft add rule inet demo in "${@:2}" drop
    sleep 4
    story
}
ip netns exec $gw nft -f - <<'NFT'
table inet demo {
    chain in { type filter hook input priority 0 ; }
}
NFT

say "A download of 100 Mbit/s begins"
start $one download iperf3 -c 10.0.0.1 -R -t 30 -i 1 -b 100M --forceflush
sleep 3
story
close "UDP is blocked" iifname eth101 meta l4proto udp
close "TCP port 2002 is blocked, too" iifname eth101 tcp dport 2002
close "And port 443: only SSH is left" iifname eth101 tcp dport 443
say "Everything is opened again"
ip netns exec $gw nft flush chain inet demo in
sleep 4
story

say "What the download has seen of it: no second without data"
for _ in $(seq 40); do grep -qs "iperf Done" "$work/download.log" && break; sleep 1; done
grep -E ' sec .*Mbits/sec' "$work/download.log" | awk '{print "    " $3, $4, $7, $8}' | head -40
grep receiver "$work/download.log"
if grep -E 'sec +0\.00 Bytes' "$work/download.log" >/dev/null; then echo "a whole second without data" >&2; fi

say "All ways, as the client sees them now"
in_ns $one bin/vpncli status
