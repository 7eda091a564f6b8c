#!/usr/bin/env python3
"""A minimal client for a Ferry gateway: docs/protocol.md, chapter "Write a client for an embedded
device". It speaks the 2013 protocol and nothing else.

    client.py SERVER [--address 10.0.3.4] [--port 2002] [--tun tun0]
"""
import argparse
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

ANY = bytes(4)
ONES = b"\xff" * 4
KEEPALIVE_AFTER = 15  # seconds in which nothing was sent
DEAD_AFTER = 10  # seconds without any byte after a keepalive


def control(source, destination):
    """Step 1: a control packet is one IPv4 header; only its addresses carry meaning."""
    return bytes.fromhex("451400000000000040000000") + source + destination


def read_exactly(sock, n):
    data = b""
    while len(data) < n:
        part = sock.recv(n - len(data))
        if not part:
            raise ConnectionError("refused: the address is in use or not of the pool" if not data else "closed")
        data += part
    return data


def join(server, port, wanted):
    """Steps 0 and 1: connect and get an address."""
    sock = socket.create_connection((server, port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(control(wanted, ANY))
    reply = read_exactly(sock, 20)
    if reply[12:16] != ANY or reply[16:20] == ANY:
        raise ConnectionError("no address in the reply")
    sock.settimeout(None)
    return sock, socket.inet_ntoa(reply[16:20])


def open_tun(name, address):
    """Step 2: the interface with the address; the netmask is 255.255.0.0, the MTU 1500."""
    IFF_TUN, IFF_NO_PI, TUNSETIFF = 0x0001, 0x1000, 0x400454CA
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "address", "add", address + "/16", "dev", name], check=True)
    subprocess.run(["ip", "link", "set", name, "mtu", "1500", "up"], check=True)
    return fd


def next_packet(stream):
    """Step 3: the length of the packet at the start of the stream; 0 while bytes are missing."""
    if len(stream) < 20:
        return 0
    source, destination = stream[12:16], stream[16:20]
    if source == ANY or (source == ONES and destination == ONES):
        return 20  # a second reply, or the echo of a keepalive
    if stream[0] >> 4 != 4:
        raise ConnectionError("the stream is out of step")
    return struct.unpack("!H", stream[2:4])[0]


def is_packet(p):
    """What may go either way: no control pattern, and IPv4."""
    return p[0] >> 4 == 4 and p[12:16] not in (ANY, ONES) and p[16:20] not in (ANY, ONES)


def carry(sock, tun):
    """Steps 3 and 4: packets both ways, and a keepalive when nothing else was sent."""
    stream, sent, heard, waiting = b"", time.monotonic(), time.monotonic(), False
    while True:
        now = time.monotonic()
        if waiting and now - max(sent, heard) > DEAD_AFTER:
            raise ConnectionError("the gateway is silent")
        if not waiting and now - sent >= KEEPALIVE_AFTER:
            sock.sendall(control(ONES, ONES))
            sent, waiting = now, True
        readable, _, _ = select.select([sock, tun], [], [], 1)
        if tun in readable:
            packet = os.read(tun, 2048)
            if is_packet(packet):
                sock.sendall(packet)
                sent = time.monotonic()
        if sock in readable:
            data = sock.recv(65536)
            if not data:
                raise ConnectionError("closed")
            heard, waiting = time.monotonic(), False
            stream += data
            while (n := next_packet(stream)) and len(stream) >= n:
                packet, stream = stream[:n], stream[n:]
                if is_packet(packet):
                    os.write(tun, packet)


def main():
    parser = argparse.ArgumentParser(description="minimal Ferry client")
    parser.add_argument("server")
    parser.add_argument("--address", default="0.0.0.0", help="static address to ask for")
    parser.add_argument("--port", type=int, default=2002)
    parser.add_argument("--tun", default="tun0")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    wanted, tun, pause = socket.inet_aton(args.address), None, 0.2
    while True:
        try:
            sock, address = join(args.server, args.port, wanted)
            print("address", address, flush=True)
            if tun is None:
                tun = open_tun(args.tun, address)
            wanted, pause = socket.inet_aton(address), 0.2  # Step 5: ask for it again
            carry(sock, tun)
        except OSError as e:
            print("not connected:", e, file=sys.stderr, flush=True)
            time.sleep(pause)
            pause = min(2 * pause, 30)


if __name__ == "__main__":
    main()
