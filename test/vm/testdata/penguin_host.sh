# The host's end of Penguin's VPN by the kernel's vsock, which has a half-close: the echo servers of the guest end when they have seen the client's end.
#
#     probe check --> ferry-penguin host, ports 7, 8, 9 == vsock port 1234 of 3 ==> ferry-penguin guest [-> wan0] -> probe echo
. /lib.sh

ip link set lo up
printf 'tcp,0.0.0.0:7,0.0.0.0:7,0.0.0.0:0,\ntcp,127.0.0.1:7,127.0.0.1:9,127.0.0.1:0\ntcp,203.0.113.2:8,127.0.0.1:8,203.0.113.2:0,wan0\n' >events
RUST_LOG=info ferry-penguin host -c 3 -e events -o out -l out.pcap >host.log 2>&1 &
host=$!
await 60 sh -c 'ferry-penguin wan-probe -c 3 --ports 9 | grep -q "9/tcp  refused"' || fail "the guest is not there"
await 10 grep -q "at=127.0.0.1:8" host.log || fail "nothing is published"
probe check tcp://127.0.0.1:7 1000000 || fail "no transfer to a service of the guest"
probe check tcp://127.0.0.1:8 1000000 || fail "no transfer through wan0"
ferry-penguin raw -c 3 --count 1 --timeout 2 | grep -q "ICMP echo-reply" || fail "no ping through wan0"
[ "$(cat out/vpn_0.0.0.0_7)" = "1000000,1000000" ] || fail "the summary says $(cat out/vpn_0.0.0.0_7)"
stop "ferry-penguin host" $host
[ "$(wc -c <out/vpn_response_203.0.113.2_8)" = 1000000 ] || fail "what the guest has said is not whole"
probe check vsock://3:10 1 || fail "the guest is not done"
