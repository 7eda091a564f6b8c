#!/bin/bash
# The demonstration: a gateway and two clients with real interfaces and packets between them.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/demo-net.sh

say "The gateway, then the clients"
start $gw gateway bin/vpnsrv --state "$work/state" --listen tcp://:2002
await gateway "plain mode"
start $one one bin/vpncli -s 192.168.101.1 --json
await one '"event":"connected"'
start $two two bin/vpncli -s 192.168.102.1 --json
await two '"event":"connected"'
a=$(address one) b=$(address two)
echo "  client one has $a, client two has $b, the gateway is 10.0.0.1"
in_ns $one ip -brief address show ferry0
in_ns $gw ip -brief address show vpn0

say "Pings: client to gateway, gateway to client, client to client"
in_ns $one ping -q -c 3 -i 0.2 10.0.0.1 | tail -2
in_ns $gw ping -q -c 3 -i 0.2 "$b" | tail -2
in_ns $one ping -q -c 3 -i 0.2 "$b" | tail -2

say "iperf3, one TCP flow"
start $gw iperf3-gateway iperf3 -s --forceflush
start $two iperf3-two iperf3 -s --forceflush
await iperf3-gateway "Server listening"
await iperf3-two "Server listening"
speed $one 192.168.101.1 "without a tunnel"
speed $one 10.0.0.1 "client to gateway"
speed $one 10.0.0.1 "gateway to client" -R
speed $one "$b" "client to client"

say "Stopped: every interface, address and route is gone again"
for p in "${pids[@]:0:3}"; do kill "$p"; done
for p in "${pids[@]:0:3}"; do wait "$p"; done
for n in $one $two $gw; do
    if ip -n "$n" -o link | grep -E 'ferry0|vpn0'; then echo "left behind in $n" >&2; exit 1; fi
done
echo "  vpnsrv and both vpncli ended with status 0"
