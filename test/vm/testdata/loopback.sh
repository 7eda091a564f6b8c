# Gateway and client in one machine, over vsock loopback (context ID 1). Each has a network namespace of its
# own, so that packets between them have no way but the tunnel; AF_VSOCK is the same in all of them.
#
#     [ namespace of the machine ]                [ namespace of $holder ]
#       vpnsrv, vpn0                <-- vsock 1 --  vpncli, ferry0
. /lib.sh

start_gateway

unshare -n sleep 1000 &
holder=$!
apart() { [ "$(readlink /proc/$holder/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; }
await 5 apart || fail "no network namespace for the client"
netns="nsenter -t $holder -n"

start_client 1
check_tunnel
stop_client
stop_gateway
