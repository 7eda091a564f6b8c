# A machine with nothing of Ferry in it but the probe: a network card, and a DHCP client. addr is the address that it
# wants to have, traffic what it does with it; files and sum are the URL of a file behind the gateway, and its SHA-256.
. /lib.sh

cat >/work/lease <<'EOF'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" dev "$interface"
ip link set "$interface" mtu "$mtu"
ip route add default via "$router"
echo "nameserver $dns" >/etc/resolv.conf
echo "search $search" >>/etc/resolv.conf
EOF
chmod +x /work/lease
ip link set eth0 up
busybox udhcpc -f -q -n -O mtu -O search -i eth0 -s /work/lease || fail "no lease"
[ "$(address eth0)" = "$addr/16" ] || fail "eth0 has $(address eth0), want $addr/16"
grep -q '^nameserver 10.0.0.1$' /etc/resolv.conf && grep -q '^search site.example$' /etc/resolv.conf || fail "told $(cat /etc/resolv.conf)"
ping -c 2 -W 5 10.0.0.1 || fail "the gateway does not answer"
nslookup "$itself" 10.0.0.1 | grep -q "^Address: $addr$" || fail "$itself is not $addr: $(nslookup "$itself" 10.0.0.1)"
wget -q -O /tmp/file "$files" || fail "no download of $files"
[ "$(sha256sum </tmp/file)" = "$sum  -" ] || fail "$files has $(sha256sum </tmp/file), want $sum"
echo "$files: $(wc -c </tmp/file) bytes, as they are behind the gateway"
# serve PORT... : the probe, once for each
serve() {
    for port; do probe echo "tcp://$addr:$port" & servers="${servers:-} $!"; done
    for server in $servers; do wait $server || return 1; done
}
traffic || fail "no traffic"
