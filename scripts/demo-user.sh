#!/bin/bash
# The demonstration without root: a gateway and a client as two programs of one user, with no interface, no route and no namespace.
#
#   curl --SOCKS5, -L--> vpncli --user ==== tcp ==== vpnsrv --exit user --> a web server of this host
#   a web server of this host <-- vpncli -R ======== vpnsrv forward add <-- curl
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
pids=()
as=()
if [ "$(id -u)" = 0 ]; then # root gives its rights away
    as=(setpriv --reuid 65534 --regid 65534 --clear-groups env HOME="$work")
    chown 65534:65534 "$work"
    chmod 755 "$work"
    install -m 755 bin/vpnsrv bin/vpncli "$work"
else
    install -m 755 bin/vpnsrv bin/vpncli "$work"
fi
cleanup() {
    local status=$?
    for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
    for p in "${pids[@]}"; do wait "$p" 2>/dev/null || true; done
    [ $status = 0 ] || tail -n 20 "$work"/*.log >&2
    rm -rf "$work"
}
trap cleanup EXIT

bold='' plain=''
[ -t 1 ] && bold=$'\033[1m' plain=$'\033[0m'
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
start() { # LOG COMMAND...
    local log=$work/$1.log; shift
    echo "  \$ $*" | sed "s#$work/##g"
    (cd "$work" && exec "${as[@]}" "$@") >"$log" 2>&1 &
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
free() { # a port that nobody has
    "${as[@]}" python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

tcp=$(free) socks=$(free) http=$(free) web=$(free) local=$(free) public=$(free)
mkdir "$work/www" && echo "This page came through the tunnel." >"$work/www/index.html"
chmod -R a+rX "$work/www"
cat >"$work/vpnsrv.toml" <<EOF
exit = "user"
listen = ["tcp://127.0.0.1:$tcp"]
[alias]
"192.0.2.1" = "127.0.0.1"
EOF
chmod a+r "$work/vpnsrv.toml"

links=$(ip -o link | wc -l)
say "A user, and the rights of the programs: none"
"${as[@]}" id
say "A web server, a gateway and a client of that user"
start web python3 -m http.server --bind 127.0.0.1 --directory "$work/www" "$web"
curl -sS -o "$work/first" --retry 20 --retry-connrefused --retry-delay 1 "http://127.0.0.1:$web/" 2>/dev/null # it is there
start gateway "$work/vpnsrv" --config "$work/vpnsrv.toml" --state "$work/gateway"
await gateway msg=serving
start client "$work/vpncli" --config= --user -s "tcp://127.0.0.1:$tcp" --state "$work/client" --socks5 "127.0.0.1:$socks" --http-proxy "127.0.0.1:$http" \
    -L "$local:192.0.2.1:$web" -R "8080:localhost:$web"
await client '^-R'
[ "$(ip -o link | wc -l)" = "$links" ] || { echo "an interface was made" >&2; exit 1; }
echo "  no interface was made"

say "curl through SOCKS5, through the HTTP proxy, and to where nobody listens"
for proxy in "socks5h://127.0.0.1:$socks" "http://127.0.0.1:$http"; do
    echo "  \$ curl -x $proxy http://192.0.2.1:$web/"
    curl -sS -m 10 -x "$proxy" "http://192.0.2.1:$web/" | sed 's/^/    /'
done
echo "  \$ curl -x socks5h://127.0.0.1:$socks http://192.0.2.1:1/"
if said=$(curl -sS -m 10 -x "socks5h://127.0.0.1:$socks" http://192.0.2.1:1/ 2>&1); then
    echo "somebody answers there" >&2; exit 1
fi
echo "    $said"
echo "    5 is 'connection refused', as it is there (RFC 1928)"

say "A forward each way: -L of the device, and -R, whose port the gateway publishes"
grep '^-[LR]' "$work/client.log" | sed 's/^/    /'
addr=$(sed -n 's#^-R tcp://\(.*\):8080 .*#\1#p' "$work/client.log")
echo "  \$ vpnsrv forward add tcp://127.0.0.1:$public $addr:8080"
"${as[@]}" "$work/vpnsrv" forward add "tcp://127.0.0.1:$public" "$addr:8080" --state "$work/gateway" | sed 's/^/    /'
for port in "$local" "$public"; do
    echo "  \$ curl http://127.0.0.1:$port/"
    page=$(curl -sS -m 10 "http://127.0.0.1:$port/")
    [ "$page" = "This page came through the tunnel." ] || { echo "got: $page" >&2; exit 1; }
    echo "    $page"
done
"${as[@]}" "$work/vpncli" status --tun user | grep '^forward'

say "What the gateway has counted"
"${as[@]}" "$work/vpnsrv" status --state "$work/gateway" | grep -E '^(gateway|connections|forwarded|beyond)'
