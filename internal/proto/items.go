package proto

import (
	"encoding/binary"

	"ferry/internal/packet"
)

// A run is what stands back to back: items that this program has made or checked itself.

// ItemLen returns the length of the packet or frame at the start of b, which we made ourselves. Only
// the rest of an item that was cut by a write fits nothing: it is whatever b has.
func ItemLen(b []byte) int {
	n := len(b)
	switch {
	case b[0]>>4 == 8 && n >= DataHeaderLen:
		n = DataLen(b)
	case b[0]>>4 == 4 && n >= ControlLen:
		n = max(packet.IPv4(b).TotalLen(), ControlLen)
	}
	return min(n, len(b))
}

// WholeItem returns where the item of run ends that byte n belongs to; n itself where one begins.
func WholeItem(run []byte, n int) int {
	end := 0
	for end < n {
		end += ItemLen(run[end:])
	}
	return end
}

// WholeItems returns the length of the items at the start of run that fit into room.
func WholeItems(run []byte, room int) int {
	done := 0
	for done < len(run) {
		n := ItemLen(run[done:])
		if done+n > room {
			break
		}
		done += n
	}
	return done
}

// CountItems returns how many items run has.
func CountItems(run []byte) (n int) {
	for len(run) > 0 {
		run = run[ItemLen(run):]
		n++
	}
	return n
}

// NextItem returns the length of the item at the start of b, as ItemLen, of bytes that came from the other end; 0 when
// more bytes are needed to tell, or when not all of it is in b. An error is final.
func NextItem(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	switch b[0] >> 4 {
	case 8:
		_, n, err = nextFrame(b)
		return n, err
	case 4:
		if len(b) < ControlLen {
			return 0, nil
		}
		n = max(packet.IPv4(b).TotalLen(), ControlLen)
	default:
		return 0, ErrNotIP
	}
	if n > len(b) {
		n = 0
	}
	return n, nil
}

// A Travel says how an item goes by a carrier of datagrams.
type Travel uint8

// The ways to travel.
const (
	TravelSurely  Travel = iota // it must not be lost
	TravelLoosely               // another one follows, or is sent again, if it is lost
	TravelCounted               // a data item: the same, and it has a number
	TravelNumber                // a number frame: it says which number the next data item has
)

// Travel returns how items of a kind go.
func (k Kind) Travel() Travel {
	switch k {
	case KindData, KindIPv4, KindIPv6:
		return TravelCounted
	case KindPing, KindPong, KindAck, KindFragment:
		return TravelLoosely
	case KindNumber:
		return TravelNumber
	}
	return TravelSurely
}

// TravelOf returns how an item goes that this program has made or checked.
func TravelOf(item []byte) Travel {
	switch {
	case item[0] == typeData:
		return TravelCounted
	case IsFrame(item):
		return frameKind(item).Travel()
	case item[0]>>4 != 4 || isControl(item):
		return TravelSurely
	}
	return TravelCounted
}

// IsFrame tells an extension frame from a packet.
func IsFrame(item []byte) bool { return item[0]>>4 == 8 }

// isControl tells a control packet, of either end, from an IPv4 packet.
func isControl(b []byte) bool {
	src, dst := binary.BigEndian.Uint32(b[12:]), binary.BigEndian.Uint32(b[16:])
	return src == 0 || dst == 0 || src == 0xffffffff && dst == 0xffffffff
}

// NumberLen is the length of a number frame in bytes.
const NumberLen = FrameHeaderLen + 8
