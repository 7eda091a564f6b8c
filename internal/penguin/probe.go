package penguin

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"ferry/internal/packet"
	"ferry/internal/penguin/wire"
	"ferry/internal/tun"
)

// ParsePorts reads numbers of ports with commas between.
func ParsePorts(s string) (ports []uint16, err error) {
	for text := range strings.SplitSeq(s, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("invalid port %q: numbers up to 65535 with commas between are expected", text)
		}
		ports = append(ports, uint16(n))
	}
	return ports, nil
}

// Probe connects to ports of the guest through an interface that it owns, and prints what its firewall does, in the original's words. timeout is for each of them.
func Probe(ctx context.Context, out io.Writer, t Transport, iface string, ports []uint16, timeout time.Duration) error {
	fmt.Fprintf(out, "Probing %d WAN port(s) through the guest firewall:\n", len(ports))
	for _, port := range ports {
		verdict := probe(ctx, t, iface, port, timeout)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Fprintf(out, "  %5d/tcp  %s\n", port, verdict)
	}
	return nil
}

func probe(ctx context.Context, t Transport, iface string, port uint16, timeout time.Duration) string {
	conn, err := t.dial(ctx, wire.Request{Dst: netip.AddrPortFrom(netip.IPv4Unspecified(), port), Routed: true, Iface: iface})
	if err != nil {
		return fmt.Sprintf("error (%s)", err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	status, err := readStatus(ctx, conn)
	switch {
	case ctx.Err() != nil:
		return "filtered (probe timeout)"
	case err != nil:
		return "no-response (vsock closed)"
	}
	switch status {
	case wire.Connected:
		return "open"
	case wire.Filtered:
		return "filtered"
	case wire.Refused:
		return "refused"
	}
	return "error"
}

// RawConfig is what Raw sends.
type RawConfig struct {
	Iface    string
	Protocol uint8
	Src, Dst netip.Addr    // of pings, IPv4
	Count    int           // of pings
	Packet   []byte        // in their place
	Timeout  time.Duration // for the next reply
}

// ParsePacket reads a packet in hex, with spaces and colons anywhere.
func ParsePacket(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r == ':' {
			return -1
		}
		return r
	}, s))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the packet is not written in hex: %w", err)
	case len(b) == 0 || len(b) > 0xffff:
		return nil, fmt.Errorf("a packet has 1 to 65535 bytes, not %d", len(b))
	}
	return b, nil
}

// Raw sends IPv4 packets through an interface that the guest owns, and prints what comes back.
func Raw(ctx context.Context, out io.Writer, t Transport, c RawConfig) error {
	conn, err := t.dial(ctx, wire.Request{Kind: wire.RawL3, Iface: c.Iface, Protocol: c.Protocol})
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Fprintf(out, "Raw L3 on %s (proto %d): %s -> %s\n", c.Iface, c.Protocol, c.Src, c.Dst)
	n := c.Count
	if c.Packet != nil {
		n = 1
	}
	for i := range n {
		p := c.Packet
		if p == nil {
			p = appendPing(nil, c.Src, c.Dst, uint16(i))
		}
		if _, err := conn.Write(wire.AppendFrame(nil, p)); err != nil {
			return fmt.Errorf("send a packet (does the guest own %s?): %w", c.Iface, err)
		}
		fmt.Fprintf(out, "  -> sent #%d (%d bytes)\n", i, len(p))
	}
	replies := 0
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetReadDeadline(time.Now().Add(c.Timeout))
	err = readFrames(conn, func(p []byte) error {
		replies++
		fmt.Fprintf(out, "  <- %s\n", describe(p))
		_ = conn.SetReadDeadline(time.Now().Add(c.Timeout))
		return ctx.Err()
	})
	if err == nil {
		err = io.EOF // no firewall's doing
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("read replies (does the guest own %s?): %w", c.Iface, err)
	}
	if replies == 0 {
		fmt.Fprintf(out, "No replies within %ds — filtered (dropped) or no responder.\n", int(c.Timeout.Seconds()))
	} else {
		fmt.Fprintf(out, "%d reply/replies received — the protocol traversed and was answered.\n", replies)
	}
	return ctx.Err()
}

const (
	pingID      = 0x1234
	pingPayload = "penguin-wan-probe"
)

// appendPing appends an echo request (RFC 792).
func appendPing(b []byte, src, dst netip.Addr, seq uint16) []byte {
	b = appendIPv4(b, src, dst, protoICMP, 8+len(pingPayload))
	at := len(b)
	b = append(b, 8, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, pingID)
	b = binary.BigEndian.AppendUint16(b, seq)
	b = append(b, pingPayload...)
	binary.BigEndian.PutUint16(b[at+2:], packet.Checksum(b[at:], 0))
	return b
}

// describe says what a packet is.
func describe(p []byte) string {
	if len(p) < 20 || p[0]>>4 != 4 {
		return fmt.Sprintf("%d bytes (non-IPv4)", len(p))
	}
	what := ""
	if header := int(p[0]&15) * 4; p[9] == protoICMP && len(p) > header {
		switch p[header] {
		case 0:
			what = " ICMP echo-reply"
		case 3:
			what = " ICMP dest-unreachable"
		case 11:
			what = " ICMP time-exceeded"
		default:
			what = fmt.Sprintf(" ICMP type %d", p[header])
		}
	}
	return fmt.Sprintf("%d bytes proto %d %s -> %s%s", len(p), p[9], netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20])), what)
}

// attachMTU is that of the host's end of a bridge.
const attachMTU = 1500

// Attach makes an interface of this host that is on the wire of one that the guest owns, until ctx is done or the guest ends it. It needs CAP_NET_ADMIN.
func Attach(ctx context.Context, out io.Writer, t Transport, iface, name string) error {
	// The interface comes first: who is attached already is sent away by the request.
	tap, err := tun.OpenTAP(name, attachMTU, netip.Prefix{})
	if err != nil {
		return err
	}
	conn, err := t.dial(ctx, wire.Request{Kind: wire.RawL2, Iface: iface})
	if err != nil {
		return errors.Join(err, tap.Close())
	}
	fmt.Fprintf(out, "Bridged host TAP '%s' <-> guest interface '%s'. Configure it, e.g.:\n", tap.Name, iface)
	fmt.Fprintf(out, "  sudo ip addr add 203.0.113.9/24 dev %s\n", tap.Name)
	fmt.Fprintf(out, "  ping 203.0.113.2      # the firmware's WAN IP\n")
	fmt.Fprintf(out, "Ctrl-C to detach.\n")
	end := func() {
		_ = conn.Close()
		_ = tap.Close()
	}
	stop := context.AfterFunc(ctx, end)
	defer stop()
	var up sync.WaitGroup
	defer up.Wait()
	defer end()
	up.Go(func() {
		defer end()
		b := make([]byte, wire.LengthSize+(1<<16-1))
		for {
			n, err := tap.Read(b[wire.LengthSize:])
			if err != nil {
				return
			}
			binary.BigEndian.PutUint16(b, uint16(n))
			// What the wire does not take waits in the queue of the interface, and is dropped there.
			if _, err := conn.Write(b[:wire.LengthSize+n]); err != nil {
				return
			}
		}
	})
	err = readFrames(conn, func(b []byte) error {
		if _, err := tap.Write(b); errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
			return err
		}
		return nil // one that the interface does not take
	})
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = io.EOF
	}
	return fmt.Errorf("the guest has ended the bridge (does it own %s, or has another host attached?): %w", iface, err)
}
