# The date jumps while a client is connected, and while an address is held for one: neither is lost, for all
# times but those of invitations are measured by a clock that nobody sets.
. /lib.sh

unshare -n sleep 1000 &
holder=$!
apart() { [ "$(readlink /proc/$holder/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; }
await 5 apart || fail "no network namespace for the client"

echo "idle_timeout = '6s'" >gateway.toml
gateway_options="--config gateway.toml"
start_gateway
netns="nsenter -t $holder -n"
start_client 1

held() { vpnsrv status --state /run/state --json | grep -q '"held": *1'; }
jump() { # SECONDS
    date -s "@$(($(date +%s) + $1))" >/dev/null || fail "the date can not be set"
}
hour=3600 year=31536000
for seconds in $year -$year -$year $year $hour -$hour; do
    jump $seconds
    $netns ping -c 2 -i 0.1 -W 5 10.0.0.1 >/dev/null || fail "no ping after a jump of $seconds s"
    sleep 1.6 # in which the gateway looks at all deadlines, twice
    $netns ping -c 2 -i 0.1 -W 5 10.0.0.1 >/dev/null || fail "no ping a while after a jump of $seconds s"
    echo "clock: jumped by $seconds s, now $(date -u +%F)"
done
grep -q "client left" vpnsrv.log && fail "the client was given up"
[ "$(grep -c '"event":"connected"' events.log)" = 1 ] || fail "the client connected again"

kill -KILL $client
await 5 held || fail "the address is not held: $(vpnsrv status --state /run/state --json)"
for seconds in $year -$year -$year $year; do
    jump $seconds
    sleep 0.5
    held || fail "the address is held no longer after a jump of $seconds s"
done
unheld() { ! held; }
await 20 unheld || fail "the address is held for ever"
echo "clock: held, and freed in time"
stop_gateway
