#!/bin/sh
# The first process of every machine: makes the system ready, runs /script, and tells its exit status
# in the last line of the virtio port "script". On a host (there is a /guest) it also runs the guest.
export PATH=/work:/bin:/usr/bin HOME=/root TERM=dumb
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
ip link set lo up
while read -r module; do insmod "$module"; done </modules/order

uptime() { read -r up _ </proc/uptime; echo "$up"; }
alive() { kill -0 "$1" 2>/dev/null; }

# A port gets its name by a message from QEMU, some time after its driver was loaded.
link_ports() {
    for port in /sys/class/virtio-ports/*; do
        read -r name 2>/dev/null <"$port/name" && ln -sf "/dev/${port##*/}" "/dev/port-$name"
    done
    for name in script $ports; do [ -e "/dev/port-$name" ] || return 1; done
}
[ -d /guest ] && ports="guest-script guest-console" || ports=
tries=0
until link_ports; do
    tries=$((tries + 1))
    [ $tries -lt 200 ] || { echo "no virtio port 'script $ports'"; poweroff -f; }
    sleep 0.05
done

# About 1 s after its boot a kernel refines the frequency of its TSC, and switches clocks then. A guest
# that boots meanwhile stops for good in about 1 run of 40: its timer never fires. So wait for the
# switch, and should a guest fall silent all the same, start it once more.
await_clock() {
    tries=0
    while [ $tries -lt 600 ] && read -r clock </sys/devices/system/clocksource/clocksource0/current_clocksource && [ "$clock" != tsc ]; do
        tries=$((tries + 1))
        sleep 0.05
    done
    echo "init: clock is $clock after $(uptime) s"
}

run_guest() {
    await_clock
    for try in first second; do
        : >/run/guest.log
        sh /guest/start </dev/null &
        guest=$!
        trap 'kill -9 $guest' TERM
        tries=0
        while alive $guest && [ $tries -lt 300 ] && [ ! -s /run/guest.log ]; do
            tries=$((tries + 1))
            sleep 0.1
        done
        if [ -s /run/guest.log ] || ! alive $guest; then
            wait $guest
            echo "init: QEMU of the guest ended with status $? after $(uptime) s"
            return
        fi
        echo "init: the guest fell silent at its $try boot (TSC stall)"
        kill -9 $guest
        wait $guest
    done
}

# Script and guest work together: when one has ended the other gets 20 s.
run_both() {
    run_guest &
    guest=$!
    sh /script </dev/null &
    script=$!
    while alive $script && alive $guest; do sleep 0.1; done
    tries=0
    while { alive $script || alive $guest; } && [ $tries -lt 200 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    alive $guest && echo "init: the script has ended, the guest goes on: killed" && kill $guest && wait $guest
    alive $script && echo "init: the guest has ended, the script goes on: killed" && kill $script
    wait $script
}

cd /work || exit
exec >/dev/port-script 2>&1
echo "init: ready after $(uptime) s"
if [ -d /guest ]; then run_both; else sh /script </dev/null; fi
status=$?
echo "init: script ended after $(uptime) s"
echo "exit status $status"
exec >/dev/console 2>&1
echo 0 >/proc/sys/kernel/printk
poweroff -f
