#!/bin/bash
# The demonstration of carriers: a client downloads through the tunnel while one way out after the other is closed, without a
# word, until only questions to a name server are left; and opened again. The log says what was chosen, and why.
#
#   client one ---- gateway: vpnsrv, for t.example.org too ---- client two: here a name server, as each provider has one
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/demo-net.sh

say "A name server of the provider's, which finds t.example.org at the gateway"
ip -n $one route add default via 192.168.101.1
ip netns exec $gw sysctl -qw net.ipv4.ip_forward=1
ip -n $two route add default via 192.168.102.1
echo "nameserver 192.168.102.2" >"$work/resolv.conf"
start $two resolver dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file= --log-facility=- \
    --bind-interfaces --listen-address=192.168.102.2 --server=/t.example.org/192.168.102.1
await resolver "started"

say "A gateway that serves UDP, TCP, WebSocket, SSH, ICMP and DNS"
ip netns exec $gw bin/vpnsrv init --state "$work/state" --config "$work/vpnsrv.toml" >/dev/null
start $gw gateway bin/vpnsrv --config "$work/vpnsrv.toml" --listen udp://:2002 --listen 'tcp://:2002?allow=tls' --listen wss://:443 --listen ssh://:2022 \
    --listen icmp:// --listen dns://t.example.org
await gateway "msg=serving"

say "A client joins, connects, and learns what else there is"
invitation=$(ip netns exec $gw bin/vpnsrv invite cam1 --state "$work/state" --server 192.168.101.1 | head -1)
ip netns exec $one bin/vpncli join "$invitation" --state "$work/one" >/dev/null
start $one one unshare --mount sh -c 'mount --bind "$0" /etc/resolv.conf && exec "$@"' "$work/resolv.conf" bin/vpncli --state "$work/one"
await one "msg=connected"
start $gw iperf3-gateway iperf3 -s --forceflush
await iperf3-gateway "Server listening"

story() { # prints what the client has said since the last time
    tail -n "+$((told + 1))" "$work/one.log" | sed -n 's/^time=[^T]*T\([0-9:.]*\)Z level=[A-Z]* msg=\(connected\|switched\|"not connected"\) /    \1 \2 /p'
    told=$(wc -l <"$work/one.log")
}
told=0
rule() { ip netns exec $gw nft add rule inet demo "$@"; }
close() { # WHAT SECONDS RULE...: closes, and gives the client time
    say "$1"
    rule in iifname eth101 "${@:3}" drop
    sleep "$2"
    story
}
ip netns exec $gw nft -f - <<'NFT'
table inet demo {
    chain in { type filter hook input priority 0 ; }
    chain through { type filter hook forward priority 0 ; }
}
NFT

say "A download of 100 Mbit/s begins"
start $one download iperf3 -c 10.0.0.1 -R -t 50 -i 1 -b 100M --forceflush
sleep 4
story
close "UDP is blocked" 4 meta l4proto udp
close "TCP port 2002 is blocked, too" 4 tcp dport 2002
rule through iifname eth101 meta l4proto icmp drop
rule through iifname eth101 th dport != 53 drop
close "All is blocked but questions to the name server" 15 meta l4proto "{ tcp, udp, icmp }"
say "Everything is opened again"
ip netns exec $gw nft flush ruleset
sleep 20
story

say "What the download has seen of it"
for _ in $(seq 40); do grep -qs "iperf Done" "$work/download.log" && break; sleep 1; done
grep -E ' sec .*bits/sec' "$work/download.log" | awk '{print "    " $3, $4, $7, $8}' | head -60
grep -E 'sender|receiver' "$work/download.log"

say "All ways, as the client sees them now"
in_ns $one bin/vpncli status
