# The gateway's machine, host or guest. The client's connects to vsock port 9 when it is done.
. /lib.sh

start_gateway
probe echo vsock://:9 || fail "the client's machine did not report"
stop_gateway
