# The guest's end of Penguin's VPN, as its init starts it, and what it leads to.
. /lib.sh

ip link set lo up
ferry-penguin guest -c 3 --own-iface wan0 >guest.log 2>&1 &
guest=$!
probe echo tcp://127.0.0.1:7 &
await 10 sh -c 'ip addr show wan0 | grep -q 203.0.113.2/24' || fail "no wan0"
probe echo tcp://203.0.113.2:8 &

# The host asks here when it is done.
probe echo vsock://:10
stop "ferry-penguin guest" $guest
ip link show wan0 >/dev/null 2>&1 && fail "wan0 is still there"
echo "ferry-penguin: clean stop"
