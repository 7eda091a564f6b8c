package packet

import (
	"encoding/binary"
	"errors"
)

// OffloadLen is the length of an encoded Offload in bytes.
const OffloadLen = 10

// Values of Offload.Flags (include/uapi/linux/virtio_net.h, VIRTIO_NET_HDR_F_*).
const (
	NeedsCsum = 1 // the checksum is not complete
	DataValid = 2 // the checksum was verified
)

// Values of Offload.GSOType (include/uapi/linux/virtio_net.h, VIRTIO_NET_HDR_GSO_*).
const (
	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	GSOUDPL4 = 5
	GSOECN   = 0x80 // or'ed to one of TCP: CWR is set
)

// Limits for what a stranger may have us multiply.
const (
	// MinGSOSize is the least that Linux itself makes of TCP (include/net/tcp.h,
	// TCP_MIN_GSO_SIZE: an MSS of 48 of which 40 went to options), so no real flow is refused. It
	// allows 2.5 times the packets for a byte received that bare IPv4 headers of 20 bytes do.
	MinGSOSize = 8
	// MaxSegments is reached only with less than 32 bytes in a segment. A TCP that gets there
	// sends less after the loss, in the end single segments.
	MaxSegments = 2048
)

// The reasons for which Check refuses a packet.
var (
	ErrNotIP   = errors.New("packet: neither IPv4 nor IPv6")
	ErrLength  = errors.New("packet: length differs from that in the header")
	ErrHeader  = errors.New("packet: header contradicts itself")
	ErrOffload = errors.New("packet: offload header does not fit the packet")
)

// Offload is struct virtio_net_hdr (include/uapi/linux/virtio_net.h): what remains to be done to the
// packet that follows. The zero value says that it is complete.
type Offload struct {
	Flags      uint8
	GSOType    uint8
	HdrLen     uint16 // IP and transport header, in bytes
	GSOSize    uint16 // payload of a segment, in bytes
	CsumStart  uint16 // where the checksummed bytes begin, from the IP header
	CsumOffset uint16 // where the checksum is stored, from CsumStart
}

// ConsumeOffload decodes the Offload at the start of b, and reports whether b is long enough.
func ConsumeOffload(b []byte) (Offload, bool) {
	if len(b) < OffloadLen {
		return Offload{}, false
	}
	return Offload{
		Flags:      b[0],
		GSOType:    b[1],
		HdrLen:     binary.LittleEndian.Uint16(b[2:]),
		GSOSize:    binary.LittleEndian.Uint16(b[4:]),
		CsumStart:  binary.LittleEndian.Uint16(b[6:]),
		CsumOffset: binary.LittleEndian.Uint16(b[8:]),
	}, true
}

// Put encodes o into the first OffloadLen bytes of b.
func (o Offload) Put(b []byte) {
	_ = b[OffloadLen-1]
	b[0], b[1] = o.Flags, o.GSOType
	binary.LittleEndian.PutUint16(b[2:], o.HdrLen)
	binary.LittleEndian.PutUint16(b[4:], o.GSOSize)
	binary.LittleEndian.PutUint16(b[6:], o.CsumStart)
	binary.LittleEndian.PutUint16(b[8:], o.CsumOffset)
}

// MaxSegment returns the length in bytes of the largest packet that becomes of ip, which passed
// Check with the result o.
func MaxSegment(o Offload, ip []byte) int {
	if o.GSOType == GSONone {
		return len(ip)
	}
	return int(o.HdrLen) + int(o.GSOSize)
}
