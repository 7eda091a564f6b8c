# The network of the demonstrations, for scripts that source this: a gateway and two clients, each in a
# network namespace of its own. It leaves nothing behind.
#
#      client one                    gateway                    client two
#   192.168.101.2 ---- veth ---- 192.168.101.1
#                                192.168.102.1 ---- veth ---- 192.168.102.2
#   ferry0 10.0.x.y ============ vpn0 10.0.0.1 ============ ferry0 10.0.x.y
gw=ferry-$$-gw one=ferry-$$-one two=ferry-$$-two
work=$(mktemp -d)
pids=()

cleanup() {
    local status=$?
    for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
    for p in "${pids[@]}"; do wait "$p" 2>/dev/null || true; done
    for n in $gw $one $two; do ip netns del "$n" 2>/dev/null || true; done
    [ $status = 0 ] || tail -n 20 "$work"/*.log >&2
    rm -rf "$work"
}
trap cleanup EXIT

bold='' plain=''
[ -t 1 ] && bold=$'\033[1m' plain=$'\033[0m'
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
in_ns() { local n=$1; shift; echo "  [${n##*-}] $*"; ip netns exec "$n" "$@"; }
start() { # NAMESPACE LOG COMMAND...
    local n=$1 log=$work/$2.log; shift 2
    echo "  [${n##*-}] $*"
    ip netns exec "$n" "$@" >"$log" 2>&1 &
    pids+=($!)
}
await() { # LOG TEXT: at most 10 s
    for _ in $(seq 100); do
        grep -qs -- "$2" "$work/$1.log" && return
        sleep 0.1
    done
    echo "no '$2' in the output of $1:" >&2
    return 1
}
address() { sed -n 's/.*"event":"connected".*"address":"\([^"]*\)".*/\1/p' "$work/$1.log" | head -1; }
speed() { # NAMESPACE ADDRESS LABEL [-R]
    local out
    out=$(ip netns exec "$1" iperf3 -c "$2" -t 2 -f g "${@:4}")
    printf '  %-28s %s\n' "$3" "$(awk '/receiver/{print $7, $8}' <<<"$out")"
}

[ "$(id -u)" = 0 ] || { echo "make demo needs root: it makes network namespaces" >&2; exit 1; }

say "Three namespaces: a gateway and two clients"
for n in $gw $one $two; do ip netns add "$n"; ip -n "$n" link set lo up; done
i=101
for n in $one $two; do
    ip link add "eth$i" netns $gw type veth peer name eth0 netns "$n"
    ip -n $gw address add 192.168.$i.1/24 dev "eth$i"
    ip -n "$n" address add 192.168.$i.2/24 dev eth0
    ip -n $gw link set "eth$i" up
    ip -n "$n" link set eth0 up
    i=$((i + 1))
done
