#!/bin/bash
# The demonstration with a virtual machine: Debian's kernel and a busybox in QEMU, with nothing of Ferry. Its network card is a socket of the gateway.
#
#   virtual machine            gateway                    client one                    client two, which has no vpncli
#   10.0.9.1 == qemu+unix == 10.0.0.1 ==== tcp ==== 10.0.x.y
#   httpd <-- published: tcp://:8080 <------------------------------------------------ curl http://192.168.102.1:8080/
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/demo-net.sh

cat >"$work/vpnsrv.toml" <<END
listen = ["tcp://:2002"]
l2_listen = ["qemu+unix://$work/qemu.sock"]
state = "$work/state"
nameserver = true
[reserved]
52-54-00-00-00-01 = "10.0.9.1"
END
# The script of the machine: what a distribution does at its start.
cat >"$work/machine" <<'END'
cat >/work/lease <<'LEASE'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" dev "$interface"
ip route add default via "$router"
echo "nameserver $dns" >/etc/resolv.conf
LEASE
chmod +x /work/lease
ip link set eth0 up
udhcpc -f -q -n -i eth0 -s /work/lease || exit 1
nslookup 52-54-00-00-00-01.ferry.internal | sed -n '/^Name/,$p'
mkdir /tmp/www && echo "This page is served by a virtual machine." >/tmp/www/index.html
httpd -p 80 -h /tmp/www && echo "httpd serves"
exec sleep 600
END

say "The gateway, and a client"
start $gw gateway bin/vpnsrv --config "$work/vpnsrv.toml"
await gateway msg=serving
start $one one bin/vpncli -s 192.168.101.1 --json
await one '"event":"connected"'

say "A virtual machine whose network card is a socket of the gateway"
echo "  qemu-system-x86_64 ... -netdev stream,id=net,server=off,addr.type=unix,addr.path=$work/qemu.sock -device virtio-net-pci,netdev=net,mac=52:54:00:00:00:01"
go build -o "$work/boot" ./test/vm/boot
"$work/boot" -netdev "stream,server=off,addr.type=unix,addr.path=$work/qemu.sock" "$work/machine" >"$work/machine.log" 2>&1 &
pids+=($!)
for _ in 1 2 3 4 5 6; do await machine "httpd serves" 2>/dev/null && break; done # a minute, where the kernel has to be fetched first
await machine "httpd serves"
grep -v '^init:' "$work/machine.log" | sed 's/^/    /'
in_ns $gw bin/vpnsrv sessions --state "$work/state" | sed 's/^/    /'

say "Pings: gateway to machine, client to machine"
in_ns $gw ping -q -c 3 -i 0.2 10.0.9.1 | tail -2
in_ns $one ping -q -c 3 -i 0.2 10.0.9.1 | tail -2

say "A port of the gateway leads to it, for somebody without a client"
in_ns $gw bin/vpnsrv forward add --state "$work/state" tcp://:8080 10.0.9.1:80
in_ns $two curl -sS -m 10 http://192.168.102.1:8080/
