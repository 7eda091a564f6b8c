package proto

import "encoding/binary"

// MaxNumber is the highest number that a frame of a session can have.
const MaxNumber = 1<<62 - 1

// A SessionID names a session to the gateway that has made it. It is no secret among those who hold the
// key of the session, and of no use to anybody else.
type SessionID [16]byte

// An AttachMessage takes a connection as one more path of a session.
type AttachMessage struct {
	Session  SessionID
	Epoch    uint64 // of the path: higher than that of each one before
	Received uint64 // the number before which this end waits for nothing
	Use      bool   // frames are to be sent by this path from now on; else it stands by
}

// An AttachedMessage is the answer to an AttachMessage.
type AttachedMessage struct {
	Known    bool   // else the gateway does not have that session (any more): a request may follow
	Received uint64 // as in AttachMessage
}

// A SwitchMessage says that frames come by the path of an epoch from now on. It is the last frame on the path before, if
// that one still carries any, and the first one on the next.
type SwitchMessage struct {
	Epoch uint64
	Next  uint64 // number of the first frame on the new path
	Turn  uint64 // counts the changes: one that is not higher than before was overtaken on the way
	Again bool   // frames that were not acknowledged come again: the path before is dead, or seems so
}

// A FragmentMessage is a part of a data frame, for a path that does not carry the whole. A part is sent once, in
// order; a frame of which one is missing is lost.
type FragmentMessage struct {
	Number uint64 // of the frame
	Offset int    // of the part
	Len    int    // of the whole frame
	Part   []byte
}

const (
	attachSession = 1 + iota
	attachEpoch
	attachReceived
	attachUse
)

// AppendAttach appends an attach frame, the first item that a client sends on a connection.
func AppendAttach(b []byte, a AttachMessage) []byte {
	p := appendField(nil, attachSession, a.Session[:])
	p = appendField(p, attachEpoch, appendUint64(nil, a.Epoch))
	p = appendField(p, attachReceived, appendUint64(nil, a.Received))
	if a.Use {
		p = appendField(p, attachUse, nil)
	}
	return appendFrame(b, typeAttach, p)
}

// ParseAttach reads a whole attach frame.
func ParseAttach(frame []byte) (a AttachMessage, err error) {
	var session, epoch bool
	err = eachField(Payload(frame), func(t byte, v []byte) bool {
		switch t {
		case attachSession:
			session = copy(a.Session[:], v) == len(a.Session) && len(v) == len(a.Session)
			return session
		case attachEpoch:
			epoch = parseNumber(v, &a.Epoch)
			return epoch
		case attachReceived:
			return parseNumber(v, &a.Received)
		case attachUse:
			a.Use = true
		}
		return true
	})
	if err == nil && !(session && epoch) {
		err = ErrMessage
	}
	return a, err
}

// AppendAttached appends an attached frame.
func AppendAttached(b []byte, a AttachedMessage) []byte {
	var p []byte
	if a.Known {
		p = appendField(p, attachReceived, appendUint64(nil, a.Received))
	}
	return appendFrame(b, typeAttached, p)
}

// ParseAttached reads a whole attached frame.
func ParseAttached(frame []byte) (a AttachedMessage, err error) {
	err = eachField(Payload(frame), func(t byte, v []byte) bool {
		if t == attachReceived {
			a.Known = parseNumber(v, &a.Received)
			return a.Known
		}
		return true
	})
	return a, err
}

// AppendAck appends an ack frame: its sender waits for nothing before number received.
func AppendAck(b []byte, received uint64) []byte {
	return appendUint64(appendFrameHeader(b, typeAck, 8), received)
}

// AppendNumber appends a number frame: n is the number of the data frame behind it.
func AppendNumber(b []byte, n uint64) []byte {
	return appendUint64(appendFrameHeader(b, typeNumber, 8), n)
}

// ParseNumber reads a whole ack or number frame.
func ParseNumber(frame []byte) (n uint64, err error) {
	if !parseNumber(Payload(frame), &n) {
		err = ErrMessage
	}
	return n, err
}

const switchLen = 25

// AppendSwitch appends a switch frame.
func AppendSwitch(b []byte, s SwitchMessage) []byte {
	b = appendUint64(appendUint64(appendUint64(appendFrameHeader(b, typeSwitch, switchLen), s.Epoch), s.Next), s.Turn)
	if s.Again {
		return append(b, 1)
	}
	return append(b, 0)
}

// ParseSwitch reads a whole switch frame.
func ParseSwitch(frame []byte) (s SwitchMessage, err error) {
	p := Payload(frame)
	if len(p) != switchLen || p[24] > 1 || !parseNumber(p[:8], &s.Epoch) || !parseNumber(p[8:16], &s.Next) || !parseNumber(p[16:24], &s.Turn) {
		return SwitchMessage{}, ErrMessage
	}
	s.Again = p[24] == 1
	return s, nil
}

const (
	fragmentHeaderLen = 16
	// FragmentOverhead is what a fragment frame adds to the part that it carries, bytes.
	FragmentOverhead = FrameHeaderLen + fragmentHeaderLen
)

// AppendFragment appends a fragment frame: number (8), offset (4), length of the whole (4), part.
func AppendFragment(b []byte, f FragmentMessage) []byte {
	b = appendUint64(appendFrameHeader(b, typeFragment, fragmentHeaderLen+len(f.Part)), f.Number)
	b = binary.BigEndian.AppendUint32(b, uint32(f.Offset))
	b = binary.BigEndian.AppendUint32(b, uint32(f.Len))
	return append(b, f.Part...)
}

// ParseFragment reads a whole fragment frame. The part is one of the frame's bytes.
func ParseFragment(frame []byte) (f FragmentMessage, err error) {
	p := Payload(frame)
	if len(p) <= fragmentHeaderLen || !parseNumber(p[:8], &f.Number) {
		return f, ErrMessage
	}
	offset, length := binary.BigEndian.Uint32(p[8:]), binary.BigEndian.Uint32(p[12:])
	f.Part = p[fragmentHeaderLen:]
	if length > MaxData || offset > length || uint32(len(f.Part)) > length-offset {
		return FragmentMessage{}, ErrMessage
	}
	f.Offset, f.Len = int(offset), int(length)
	return f, nil
}

// AppendLimit appends a limit frame: items that are longer than n bytes do not arrive by this path; 0: all do.
func AppendLimit(b []byte, n int) []byte {
	return binary.BigEndian.AppendUint16(appendFrameHeader(b, typeLimit, 2), uint16(n))
}

// ParseLimit reads a whole limit frame.
func ParseLimit(frame []byte) (int, error) {
	n, ok := parseUint16(Payload(frame))
	if !ok {
		return 0, ErrMessage
	}
	return int(n), nil
}

func appendUint64(b []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(b, n) }

func parseNumber(v []byte, n *uint64) bool {
	if len(v) != 8 {
		return false
	}
	*n = binary.BigEndian.Uint64(v)
	return *n <= MaxNumber
}
