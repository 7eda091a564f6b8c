# vtunnel in a host and its guest, which run the same script: each has a server, a client of the other's, and a destination for it.
# $peer is the context ID of the other one, $own that of this one; $flags name a guest to the client of a host.
#
#     probe check --> vpncli vtunnel, TCP port 8 == vsock port 6666 of the other ==> vpncli vtunnel -s --> probe echo, TCP port 7
. /lib.sh

vpncli vtunnel -s >server.log 2>&1 &
server=$!
await 10 grep -qx "vtunnel: listening on vsock $own:6666" server.log || fail "no server"
probe echo tcp://127.0.0.1:7 &

# Both are here when each has connected to the other.
probe echo vsock://:9 &
probe check "vsock://$peer:9" 1 || fail "the other machine is not there"

vpncli vtunnel $flags -d 7 -p 8 -b >client.log 2>client.err || fail "no client"
grep -Eqx "vtunnel: pid [0-9]+ listening on tcp 127.0.0.1:8" client.log || fail "the client does not say where it listens"
probe check tcp://127.0.0.1:8 1000000 || fail "no transfer through the tunnel"

# Neither ends before both are done.
probe echo vsock://:10 &
probe check "vsock://$peer:10" 1 || fail "the other machine is not done"
wait $! || fail "the other machine did not ask"
grep -q "setting up tunnel to 127.0.0.1:7 tcp" server.log || fail "nobody has come to the server"
stop "vpncli vtunnel -s" $server
