# The client's machine, host or guest. $peer is the context ID of the gateway's.
. /lib.sh

# After a failure too, for then the gateway's machine ends at once, and shows its log.
trap 'show_logs; probe check "vsock://$peer:9" 1' EXIT

start_client "$peer"
check_tunnel
stop_client
