package proto

import "net/netip"

// A Secret is that of an invitation, with which a device joins once.
type Secret [16]byte

// A JoinedMessage tells a device that the gateway knows its key from now on.
type JoinedMessage struct {
	Name string     // under which the gateway knows it; at most 63 bytes
	Addr netip.Addr // its address in the tunnel
}

const joinSecret = 1

const (
	joinedName = 1 + iota
	joinedAddr
)

// AppendJoin appends a join frame, the only one that a device sends on a connection for joining.
func AppendJoin(b []byte, s Secret) []byte {
	return appendFrame(b, typeJoin, appendField(nil, joinSecret, s[:]))
}

// ParseJoin reads a whole join frame.
func ParseJoin(frame []byte) (s Secret, err error) {
	found := false
	err = eachField(Payload(frame), func(t byte, v []byte) bool {
		if t != joinSecret {
			return true
		}
		found = copy(s[:], v) == len(s) && len(v) == len(s)
		return found
	})
	if err == nil && !found {
		err = ErrMessage
	}
	return s, err
}

// AppendJoined appends a joined frame, the answer to a join frame. The other answer is a goodbye.
func AppendJoined(b []byte, j JoinedMessage) []byte {
	p := appendField(nil, joinedName, []byte(j.Name))
	return appendFrame(b, typeJoined, appendField(p, joinedAddr, j.Addr.AsSlice()))
}

// ParseJoined reads a whole joined frame.
func ParseJoined(frame []byte) (j JoinedMessage, err error) {
	err = eachField(Payload(frame), func(t byte, v []byte) bool {
		switch t {
		case joinedName:
			j.Name = Printable(string(v))
			return len(v) <= 63
		case joinedAddr:
			return parseAddr(v, &j.Addr)
		}
		return true
	})
	if err == nil && (j.Name == "" || !j.Addr.IsValid()) {
		err = ErrMessage
	}
	return j, err
}
