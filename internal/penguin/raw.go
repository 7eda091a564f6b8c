package penguin

import (
	"context"
	"encoding/binary"
	"fmt"

	"ferry/internal/penguin/wire"
)

// A tap is a host that reads what an interface sends: IPv4 packets of a protocol, or all frames.
type tap struct {
	l2       bool
	protocol uint8
	w        frameWriter
}

// join adds a tap; false: there are too many. Of those of all frames the newest wins.
func (o *owned) join(t *tap) bool {
	o.mu.Lock()
	before := o.l2
	ok := !o.gone && (len(o.taps) < maxTaps || t.l2 && before != nil)
	if ok {
		o.taps[t] = struct{}{}
		if t.l2 {
			o.l2 = t
			delete(o.taps, before)
		}
	}
	o.mu.Unlock()
	if ok && t.l2 && before != nil {
		before.w.close()
	}
	return ok
}

func (o *owned) leave(t *tap) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.taps, t)
	if o.l2 == t {
		o.l2 = nil
	}
}

// hand gives a frame that the kernel has sent to the taps. None of them waits.
func (o *owned) hand(frame []byte) {
	packet, protocol, isIP := packetOf(frame)
	o.mu.Lock()
	defer o.mu.Unlock()
	for t := range o.taps {
		switch {
		case t.l2:
			t.w.write(frame)
		case isIP && t.protocol == protocol:
			t.w.write(packet)
		}
	}
}

const etherIPv4 = 0x0800

// packetOf returns the IPv4 packet of a frame, without what fills it up.
func packetOf(frame []byte) (packet []byte, protocol uint8, ok bool) {
	if len(frame) < ethernetHeader+20 || binary.BigEndian.Uint16(frame[12:]) != etherIPv4 {
		return nil, 0, false
	}
	packet = frame[ethernetHeader:]
	n := int(binary.BigEndian.Uint16(packet[2:]))
	if packet[0]>>4 != 4 || n < 20 || n > len(packet) {
		return nil, 0, false
	}
	return packet[:n], packet[9], true
}

// raw copies between a host and an interface, until either ends; take writes what the host sends.
func (g *Guest) raw(conn stream, r wire.Request, t *tap, take func(o *owned, b []byte)) {
	o := g.interfaceOf(r.Iface)
	if o == nil {
		g.refuse(conn, reasonInterface, fmt.Errorf("no interface is called %q here", r.Iface))
		return
	}
	t.w.dropped = &g.count[reasonSlow]
	if !t.w.attach(conn) {
		return
	}
	defer t.w.close()
	if !o.join(t) {
		g.refuse(conn, reasonFull, fmt.Errorf("%d listen on %s already, or it is gone", maxTaps, r.Iface))
		return
	}
	defer o.leave(t)
	g.count[connected].Add(1)
	_ = readFrames(conn, func(b []byte) error {
		take(o, b)
		return nil
	})
}

// rawL3 serves IPv4 packets of a protocol. What the host sends is framed as from the neighbour, whatever its source.
func (g *Guest) rawL3(_ context.Context, conn stream, r wire.Request) {
	var frame []byte // the header, and room behind it
	g.raw(conn, r, &tap{protocol: r.Protocol}, func(o *owned, b []byte) {
		if frame == nil {
			frame = append(append(append(make([]byte, 0, ethernetHeader+ownedMTU), o.tap.MAC...), neighbourMAC...), etherIPv4>>8, etherIPv4&0xff)
		}
		switch {
		case len(b) < 20 || b[0]>>4 != 4:
			g.count[reasonMalformed].Add(1)
		case len(b) > ownedMTU:
			g.count[reasonLong].Add(1)
		default:
			g.inject(o, append(frame, b...))
		}
	})
}

// rawL2 serves Ethernet frames.
func (g *Guest) rawL2(_ context.Context, conn stream, r wire.Request) {
	g.raw(conn, r, &tap{l2: true}, func(o *owned, b []byte) {
		switch {
		case len(b) < ethernetHeader:
			g.count[reasonMalformed].Add(1)
		case len(b) > ethernetHeader+4+ownedMTU: // with a tag of a VLAN
			g.count[reasonLong].Add(1)
		default:
			g.inject(o, b)
		}
	})
}

func (g *Guest) inject(o *owned, frame []byte) {
	if _, err := o.tap.Write(frame); err != nil {
		g.count[reasonMalformed].Add(1)
	}
}
