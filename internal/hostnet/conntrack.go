package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ferry/internal/flowlist"
)

// Flows returns what the kernel's connection tracking knows of some clients (none: of all), flowlist.Max at most, and how many there are. isClient tells
// whether an address is that of one. The table is read as it comes, and not kept: it can be large.
func Flows(isClient func(netip.Addr) bool, clients []netip.Addr) (all []flowlist.Flow, total int, err error) {
	r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	err = r.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(b []byte) bool {
		if len(b) < nl.SizeofNfgenmsg {
			return true
		}
		w, ok := parseTracked(b[nl.SizeofNfgenmsg:], isClient)
		if !ok || !flowlist.Of(clients, w.Client.Addr()) {
			return true
		}
		if total++; len(all) < flowlist.Max {
			all = append(all, w)
		}
		return true
	})
	if errors.Is(err, nl.ErrDumpInterrupted) { // it has changed meanwhile, as it does all the time
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("connection tracking of the kernel (is nf_conntrack_netlink there?): %w", err)
	}
	return all, total, err
}

// Attributes of a tracked connection (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	ctaTupleOrig     = 1
	ctaTupleReply    = 2
	ctaProtoInfo     = 4
	ctaTimeout       = 7
	ctaCountersOrig  = 9
	ctaCountersReply = 10
	ctaTimestamp     = 20

	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaIPSrc      = 1
	ctaIPDst      = 2
	ctaProtoNum   = 1
	ctaProtoSrc   = 2
	ctaProtoDst   = 3
	ctaProtoICMP  = 4 // identifier

	ctaCountersBytes = 2
	ctaProtoTCP      = 1
	ctaTCPState      = 1
	ctaTimeStart     = 1
)

// tcpStates are the names of the kernel's (enum tcp_conntrack).
var tcpStates = []string{"none", "syn_sent", "syn_recv", "established", "fin_wait", "close_wait", "last_ack", "time_wait", "close", "syn_sent2"}

// attributes calls f for each attribute (struct nlattr: length 2, type 2, value, padding to 4), whose upper two bits are flags.
func attributes(b []byte, f func(kind uint16, value []byte)) {
	const head, flags = 4, 0xc000
	for len(b) >= head {
		n := int(binary.NativeEndian.Uint16(b))
		if n < head || n > len(b) {
			return
		}
		f(binary.NativeEndian.Uint16(b[2:])&^flags, b[head:n])
		b = b[min(len(b), (n+3)&^3):]
	}
}

// A tuple is one direction of a connection.
type tuple struct {
	protocol uint8
	src, dst netip.AddrPort
}

func parseTuple(b []byte) (t tuple) {
	var src, dst netip.Addr
	var srcPort, dstPort uint16
	attributes(b, func(kind uint16, b []byte) {
		attributes(b, func(inner uint16, v []byte) {
			switch {
			case kind == ctaTupleIP && inner == ctaIPSrc:
				src, _ = netip.AddrFromSlice(v)
			case kind == ctaTupleIP && inner == ctaIPDst:
				dst, _ = netip.AddrFromSlice(v)
			case kind == ctaTupleProto && inner == ctaProtoNum && len(v) == 1:
				t.protocol = v[0]
			case kind == ctaTupleProto && (inner == ctaProtoSrc || inner == ctaProtoICMP) && len(v) == 2:
				srcPort = binary.BigEndian.Uint16(v)
			case kind == ctaTupleProto && inner == ctaProtoDst && len(v) == 2:
				dstPort = binary.BigEndian.Uint16(v)
			}
		})
	})
	t.src, t.dst = netip.AddrPortFrom(src, srcPort), netip.AddrPortFrom(dst, dstPort)
	return t
}

// parseTracked reads the attributes of a connection; false: it is not one of a client.
func parseTracked(b []byte, isClient func(netip.Addr) bool) (w flowlist.Flow, ok bool) {
	var orig, reply tuple
	var there, back uint64
	w.By = flowlist.ByKernel
	attributes(b, func(kind uint16, b []byte) {
		switch kind {
		case ctaTupleOrig:
			orig = parseTuple(b)
		case ctaTupleReply:
			reply = parseTuple(b)
		case ctaProtoInfo:
			inside(b, ctaProtoTCP, func(b []byte) {
				inside(b, ctaTCPState, func(v []byte) {
					if len(v) == 1 && int(v[0]) < len(tcpStates) {
						w.State = tcpStates[v[0]]
					}
				})
			})
		case ctaTimeout:
			if len(b) == 4 {
				w.Expires = float64(binary.BigEndian.Uint32(b))
			}
		case ctaCountersOrig:
			inside(b, ctaCountersBytes, func(v []byte) { there, w.Counted = number(v), true })
		case ctaCountersReply:
			inside(b, ctaCountersBytes, func(v []byte) { back, w.Counted = number(v), true })
		case ctaTimestamp:
			inside(b, ctaTimeStart, func(v []byte) { w.Since = time.Unix(0, int64(number(v))).UTC() })
		}
	})
	w.Protocol = flowlist.Protocol(orig.protocol)
	switch { // of NAT the client's side is what it sees itself
	case isClient(orig.src.Addr()):
		w.Client, w.Remote, w.Sent, w.Received = orig.src, orig.dst, there, back
	case isClient(reply.src.Addr()):
		w.Client, w.Remote, w.Sent, w.Received = reply.src, orig.src, back, there
	default:
		return w, false
	}
	return w, true
}

// inside calls f for the attributes of a kind.
func inside(b []byte, kind uint16, f func([]byte)) {
	attributes(b, func(k uint16, v []byte) {
		if k == kind {
			f(v)
		}
	})
}

func number(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
