# What the scripts of the machines share: ". /lib.sh". A failed check ends the script with status 1.
# The tunnel checked here is the same over any vsock path:
#
#     vpnsrv, vpn0 10.0.0.1/16  <--- vsock port 2002 ---  vpncli, ferry0 10.0.254.254/16
#     probe echo, TCP port 7    <------ in the tunnel --  ping, probe check

set -u
netns= # command that enters the client's network namespace; empty: this one
gateway_options= # of vpnsrv

fail() {
    echo "FAIL: $*"
    exit 1
}

show_logs() {
    for log in *.log; do
        [ -e "$log" ] && sed "s/^/$log| /" "$log"
    done
}
trap show_logs EXIT

# await SECONDS COMMAND... : until it succeeds
await() {
    tries=$(($1 * 20))
    shift
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.05
    done
}

# address INTERFACE : its IPv4 prefix; fails if there is none
address() { $netns ip -4 addr show dev "$1" 2>/dev/null | sed -n 's/.* inet \([0-9./]*\).*/\1/p' | grep .; }

# stop NAME PID : sends SIGTERM, and wants exit status 0 within 10 s
stop() {
    kill -TERM "$2"
    { sleep 10; kill -KILL "$2"; } 2>/dev/null &
    watchdog=$!
    wait "$2"
    status=$?
    kill $watchdog 2>/dev/null
    [ $status = 0 ] || fail "$1 ended with status $status after SIGTERM (137: not within 10 s)"
}

start_gateway() {
    vpnsrv --listen vsock://:2002 --state /run/state $gateway_options >vpnsrv.log 2>&1 &
    gateway=$!
    await 20 address vpn0 || fail "vpnsrv: vpn0 got no address"
    [ "$(address vpn0)" = 10.0.0.1/16 ] || fail "vpn0 has $(address vpn0), want 10.0.0.1/16"
    probe echo tcp://10.0.0.1:7 &
}

stop_gateway() {
    stop vpnsrv $gateway
    ip link show vpn0 >/dev/null 2>&1 && fail "vpn0 is still there"
    echo "vpnsrv: clean stop"
}

# start_client CID : of the gateway
start_client() {
    $netns vpncli -s "vsock://$1:2002" --json >events.log 2>vpncli.log &
    client=$!
    await 40 address ferry0 || fail "vpncli: ferry0 got no address"
    [ "$(address ferry0)" = 10.0.254.254/16 ] || fail "ferry0 has $(address ferry0), want 10.0.254.254/16"
    await 5 grep -q '"event":"connected"' events.log || fail "vpncli --json told of no connection"
    grep -q '"address":"10.0.254.254"' events.log || fail "vpncli --json told another address"
    echo "vpncli: $(address ferry0) by vsock://$1:2002"
}

stop_client() {
    stop vpncli $client
    $netns ip link show ferry0 >/dev/null 2>&1 && fail "ferry0 is still there"
    echo "vpncli: clean stop"
}

# check_tunnel : packets of all sizes, and a stream of 2 MB each way whose checksums are compared
check_tunnel() {
    for size in 56 1400 4000; do # the last one in fragments
        $netns ping -c 3 -i 0.1 -W 5 -s $size 10.0.0.1 || fail "no pings of $size bytes through the tunnel"
    done
    $netns probe check tcp://10.0.0.1:7 2000000 || fail "no transfer through the tunnel"
}
