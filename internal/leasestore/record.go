package leasestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"

	"ferry/internal/addrpool"
)

const (
	magic      = "ferrylog"
	version    = 1
	headerLen  = len(magic) + 4 + 4
	recordMin  = 2 + 1 + 4 + 16 + 4
	recordMax  = recordMin + 255
	kindGrant  = 1
	kindFree   = 2
	nameOffset = 2 + 1 + 4 + 16
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian

	errHeader = errors.New("damaged header")
	errRecord = errors.New("damaged or incomplete record")
)

// ErrVersion is returned for files that a later version of Ferry wrote.
var ErrVersion = errors.New("written by a later version of Ferry")

func appendHeader(b []byte) []byte {
	h := len(b)
	b = append(b, magic...)
	b = le.AppendUint32(b, version)
	return le.AppendUint32(b, crc(b[h:]))
}

// consumeHeader returns what follows the header of b.
func consumeHeader(b []byte) ([]byte, error) {
	if len(b) < headerLen || string(b[:len(magic)]) != magic ||
		crc(b[:headerLen-4]) != le.Uint32(b[headerLen-4:]) {
		return nil, errHeader
	}
	if v := le.Uint32(b[len(magic):]); v > version {
		return nil, fmt.Errorf("format %d: %w", v, ErrVersion)
	}
	return b[headerLen:], nil
}

// recordLen is the length of a record of l, whose name is cut at 255 bytes.
func recordLen(l addrpool.Lease) int { return recordMin + min(len(l.Name), recordMax-recordMin) }

// appendRecord encodes an event.
func appendRecord(b []byte, e addrpool.Event) []byte {
	r, n := len(b), recordLen(e.Lease)
	name := e.Lease.Name[:n-recordMin]
	b = le.AppendUint16(b, uint16(n))
	kind := byte(kindGrant)
	if e.Freed {
		kind = kindFree
	}
	addr := e.Lease.Addr.As4()
	b = append(b, kind)
	b = append(b, addr[:]...)
	b = append(b, e.Lease.Token[:]...)
	b = append(b, name...)
	return le.AppendUint32(b, crc(b[r:]))
}

// consumeRecord decodes the record at the start of b and returns what follows it.
func consumeRecord(b []byte) (addrpool.Event, []byte, error) {
	if len(b) < recordMin {
		return addrpool.Event{}, b, errRecord
	}
	n := int(le.Uint16(b))
	if n < recordMin || n > recordMax || n > len(b) ||
		crc(b[:n-4]) != le.Uint32(b[n-4:]) ||
		b[2] != kindGrant && b[2] != kindFree {
		return addrpool.Event{}, b, errRecord
	}
	e := addrpool.Event{Freed: b[2] == kindFree}
	e.Lease.Addr = netip.AddrFrom4([4]byte(b[3:]))
	e.Lease.Token = addrpool.Token(b[7:nameOffset])
	e.Lease.Name = string(b[nameOffset : n-4])
	return e, b[n:], nil
}

func crc(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }
