package packet

import "encoding/binary"

// network is what Check learned from the IP header.
type network struct {
	len      int // of the header
	version  uint8
	protocol uint8
	fragment bool
}

// Check decides whether ip is one whole IPv4 or IPv6 packet and o a true account of what remains to
// be done to it, for both may come from a stranger and go to a kernel. It returns o as it may be
// passed on: HdrLen is the true length of the headers (a forwarding kernel claims whatever lies in
// its first buffer), DataValid is cleared, as is each field that has no meaning here. A super-packet
// whose payload fits one segment is none. The error is one of ErrNotIP, ErrLength, ErrHeader and
// ErrOffload.
func Check(o Offload, ip []byte) (Offload, error) {
	h, err := parse(ip)
	switch {
	case err != nil:
		return Offload{}, err
	case o.Flags&^(NeedsCsum|DataValid) != 0:
		return Offload{}, ErrOffload
	case o.Flags&NeedsCsum == 0 && o.GSOType == GSONone:
		return Offload{}, nil
	case o.Flags&NeedsCsum == 0, h.fragment:
		return Offload{}, ErrOffload
	}
	n, err := transportLen(o, ip, h)
	if err != nil {
		return Offload{}, err
	}
	checked := Offload{Flags: NeedsCsum, CsumStart: o.CsumStart, CsumOffset: o.CsumOffset}
	if o.GSOType == GSONone {
		return checked, nil
	}
	return checkGSO(checked, o, len(ip), n, h)
}

func parse(ip []byte) (network, error) {
	if len(ip) == 0 {
		return network{}, ErrLength
	}
	switch ip[0] >> 4 {
	case 4:
		return parseIPv4(ip)
	case 6:
		return parseIPv6(ip)
	}
	return network{}, ErrNotIP
}

func parseIPv4(ip IPv4) (network, error) {
	if len(ip) < minIPv4Header || ip.TotalLen() != len(ip) {
		return network{}, ErrLength
	}
	n := ip.HeaderLen()
	// A fragment must not reach beyond the longest packet: the "ping of death".
	if n < minIPv4Header || n > len(ip) || ip.FragmentOffset()+len(ip) > 65535 {
		return network{}, ErrHeader
	}
	fragment := ip.fragment()&(moreFragments|fragmentOffset) != 0
	return network{n, 4, ip.Protocol(), fragment}, nil
}

func parseIPv6(ip []byte) (network, error) {
	if len(ip) < ipv6Header || IPv6Len(ip) != len(ip) {
		return network{}, ErrLength
	}
	next := ip[6]
	return network{ipv6Header, 6, next, next == protoFragment}, nil
}

// transportLen checks the claim of an incomplete checksum. It returns the length of the transport
// header, or 0 when that is not the one of TCP or UDP right behind the IP header.
func transportLen(o Offload, ip []byte, h network) (int, error) {
	start, n := int(o.CsumStart), len(ip)-h.len
	switch {
	case start < h.len || start+int(o.CsumOffset)+2 > len(ip):
		return 0, ErrOffload
	case h.protocol == protoTCP:
		return tcpHeaderLen(o, ip[h.len:], start == h.len)
	case start > h.len:
		// A tunnel (IPIP, GRE, VXLAN) or IPv6 extension headers: the checksum is an inner one.
		return 0, nil
	case h.protocol != protoUDP:
		return 0, nil
	case o.CsumOffset != udpChecksum:
		return 0, ErrOffload
	case n < udpHeader || int(binary.BigEndian.Uint16(ip[h.len+udpLength:])) != n:
		return 0, ErrHeader
	}
	return udpHeader, nil
}

func tcpHeaderLen(o Offload, tcp []byte, atStart bool) (int, error) {
	if !atStart || o.CsumOffset != tcpChecksum {
		return 0, ErrOffload
	}
	n := int(tcp[tcpOffset]>>4) * 4
	if n < minTCPHeader || n > len(tcp) {
		return 0, ErrHeader
	}
	return n, nil
}

// checkGSO completes checked by the claim of a super-packet of n bytes.
func checkGSO(checked, o Offload, n, transport int, h network) (Offload, error) {
	kind := o.GSOType
	ok := false
	switch {
	case transport == 0:
	case h.protocol == protoUDP:
		ok = kind == GSOUDPL4
	case h.version == 4:
		ok = kind&^GSOECN == GSOTCPv4
	case h.version == 6:
		ok = kind&^GSOECN == GSOTCPv6
	}
	size := int(o.GSOSize)
	payload := n - h.len - transport
	switch {
	case !ok, size < MinGSOSize, payload > size*MaxSegments:
		return Offload{}, ErrOffload
	case payload <= size:
		return checked, nil
	}
	checked.GSOType = kind
	checked.HdrLen = uint16(h.len + transport)
	checked.GSOSize = o.GSOSize
	return checked, nil
}
