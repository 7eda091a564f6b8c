#!/bin/bash
# The demonstration of keys: a gateway that lets in known devices only, one device that is invited and one
# that is added by its key, and what is to be seen of them from outside.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/demo-net.sh

say "The gateway makes its key"
in_ns $gw bin/vpnsrv init --state "$work/state" --config "$work/vpnsrv.toml"
start $gw gateway bin/vpnsrv --config "$work/vpnsrv.toml"
await gateway "msg=serving"

say "Client one is invited"
invitation=$(ip netns exec $gw bin/vpnsrv invite cam1 --state "$work/state")
in_ns $one bin/vpncli join "$invitation" --state "$work/one"
start $one one bin/vpncli --state "$work/one" --json
await one '"event":"connected"'

say "Client two is added by its key"
key=$(ip netns exec $two bin/vpncli key --state "$work/two")
pin=$(ip netns exec $gw bin/vpnsrv status --json --state "$work/state" | sed -n 's/.*"fingerprint": "\(.*\)".*/\1/p')
in_ns $gw bin/vpnsrv peer add hub "$key" --ip 10.0.3.7 --state "$work/state"
start $two two bin/vpncli --state "$work/two" -s 192.168.102.1 --gateway "$pin" --json
await two '"event":"connected"'
a=$(address one) b=$(address two)
in_ns $gw bin/vpnsrv peer list --state "$work/state"

say "Pings, and what tcpdump sees of them outside: nothing of what is inside"
start $gw tcpdump tcpdump -i eth101 -U -w "$work/wire" -s 0
await tcpdump "listening on"
in_ns $one ping -q -c 3 -i 0.2 -p feedfacecafebeef 10.0.0.1 | tail -2
in_ns $one ping -q -c 3 -i 0.2 -p feedfacecafebeef "$b" | tail -2
in_ns $one ping -q -c 1 -p badc0ffee0ddf00d 192.168.101.1 | tail -2
for _ in $(seq 50); do LC_ALL=C grep -qaP '\xba\xdc\x0f\xfe' "$work/wire" && break; sleep 0.1; done
LC_ALL=C grep -qaP '\xba\xdc\x0f\xfe' "$work/wire" || { echo "tcpdump saw no ping beside the tunnel" >&2; exit 1; }
if LC_ALL=C grep -qaP '\xfe\xed\xfa\xce' "$work/wire"; then echo "the inside of the tunnel is to be seen" >&2; exit 1; fi
echo "  $(stat -c %s "$work/wire") bytes on the wire: the ping beside the tunnel is in them, those inside are not"

say "A client without a key gets nothing"
start $two plain bin/vpncli --plain -s 192.168.102.1 --state "$work/none" --tun ferry1 --json
await plain '"event":"reconnecting"'
grep -o '"reason":"[^"]*"' "$work/plain.log" | head -1

say "iperf3, one TCP flow, TLS 1.3"
start $gw iperf3-gateway iperf3 -s --forceflush
await iperf3-gateway "Server listening"
speed $one 192.168.101.1 "without a tunnel"
speed $one 10.0.0.1 "client to gateway"
speed $one 10.0.0.1 "gateway to client" -R

say "Client one is removed"
before=$(date +%s%N)
in_ns $gw bin/vpnsrv peer rm cam1 --state "$work/state"
await one '"event":"lost"'
echo "  its session ended within $((($(date +%s%N) - before) / 1000000)) ms:"
grep -o '"event":"lost".*' "$work/one.log" | head -1
if ip netns exec $one ping -q -c 1 -W 1 10.0.0.1 >/dev/null; then echo "it still gets answers" >&2; exit 1; fi
in_ns $gw bin/vpnsrv status --state "$work/state"
