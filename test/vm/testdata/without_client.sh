# A machine with nothing of Ferry in it but the probe: a network card, and a DHCP client. addr is the address that it
# wants to have, traffic what it does with it.
. /lib.sh

cat >/work/lease <<'EOF'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" dev "$interface"
ip link set "$interface" mtu "$mtu"
ip route add default via "$router"
echo "nameserver $dns" >/tmp/resolv.conf
echo "search $search" >>/tmp/resolv.conf
EOF
chmod +x /work/lease
ip link set eth0 up
busybox udhcpc -f -q -n -O mtu -O search -i eth0 -s /work/lease || fail "no lease"
[ "$(address eth0)" = "$addr/16" ] || fail "eth0 has $(address eth0), want $addr/16"
grep -q '^nameserver 10.0.0.1$' /tmp/resolv.conf && grep -q '^search site.example$' /tmp/resolv.conf || fail "told $(cat /tmp/resolv.conf)"
ping -c 2 -W 5 10.0.0.1 || fail "the gateway does not answer"
traffic || fail "no traffic"
