package rawvpn

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// Features of the extensions that tests need (docs/protocol.md).
const (
	Super   = 1 << 0
	Config  = 1 << 1
	Ping    = 1 << 3
	Goodbye = 1 << 4
	hello   = 1 << 15
)

const (
	magicOffer  = 0xfe52
	magicAnswer = 0xfe53
	version     = 1
)

// A Token proves a lease. The zero value is none.
type Token [16]byte

// An Ask is an address request. The zero value is the dynamic request of a 2013 client.
type Ask struct {
	Static   netip.Addr // the wanted address; invalid: any
	Features uint16     // 0: of a 2013 client, and the fields below mean nothing
	Hint     netip.Addr // held before; invalid: none
	Resume   netip.Addr // held before, proven by Token; invalid: none
	Token    Token
	Name     string
}

// All are the features of an ordinary client, but for super-packets of UDP.
const All = Super | Config | Ping | Goodbye

// Bytes returns the request, and the hello frame behind it if there is something to say in it.
func (a Ask) Bytes() []byte {
	b := Control(a.Static, netip.IPv4Unspecified())
	if a.Features == 0 {
		return b
	}
	features := a.Features
	said := a.hello()
	if said != nil {
		features |= hello
	}
	binary.BigEndian.PutUint16(b[4:], magicOffer)
	binary.BigEndian.PutUint16(b[6:], features)
	b[9] = version
	if a.Hint.IsValid() {
		copy(b[10:12], a.Hint.AsSlice()[2:])
	}
	return append(b, said...)
}

func (a Ask) hello() []byte {
	var fields []byte
	if a.Name != "" {
		fields = append(fields, 1, 0, byte(len(a.Name)))
		fields = append(fields, a.Name...)
	}
	if a.Resume.IsValid() {
		fields = append(fields, 2, 0, 4+16)
		fields = append(fields, a.Resume.AsSlice()...)
		fields = append(fields, a.Token[:]...)
	}
	if fields == nil {
		return nil
	}
	return Frame(0x83, fields)
}

// Control returns a control packet with the bytes of the 2013 client. An invalid address is 0.0.0.0.
func Control(src, dst netip.Addr) []byte {
	b := make([]byte, controlLen)
	b[0], b[1], b[8] = 0x45, 0x14, 0x40
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	return b
}

// Keepalive returns a keepalive that can be told from others: its identification is id.
func Keepalive(id uint16) []byte {
	ones := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	b := Control(ones, ones)
	binary.BigEndian.PutUint16(b[4:], id)
	return b
}

// Frame returns an extension frame.
func Frame(kind byte, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(kind)<<24|uint32(len(payload)))
	return append(b, payload...)
}

// DataFrame returns a data frame with a packet that is complete as it is.
func DataFrame(ip []byte) []byte {
	return Frame(0x81, append(make([]byte, offloadLen), ip...))
}

// A Lease is what a client got.
type Lease struct {
	Addr     netip.Addr
	Features uint16 // agreed upon; 0 for a 2013 client
	Token    Token
	Idle     time.Duration
}

// parseReply reads a reply.
func parseReply(b []byte) (l Lease) {
	l.Addr = Dst(b)
	if binary.BigEndian.Uint16(b[4:]) == magicAnswer && b[9] == version {
		l.Features = binary.BigEndian.Uint16(b[6:])
	}
	return l
}

// config reads the fields of a config frame that a Lease has.
func (l *Lease) config(frame []byte) error {
	for b := frame[frameLen:]; len(b) > 0; {
		if len(b) < 3 || len(b) < 3+int(binary.BigEndian.Uint16(b[1:])) {
			return fmt.Errorf("config frame cut short: % x", frame)
		}
		kind, value := b[0], b[3:3+int(binary.BigEndian.Uint16(b[1:]))]
		b = b[3+len(value):]
		switch {
		case kind == 1 && (len(value) != 5 || netip.AddrFrom4([4]byte(value)) != l.Addr):
			return fmt.Errorf("pushed prefix % x for address %s", value, l.Addr)
		case kind == 5 && len(value) == len(l.Token):
			l.Token = Token(value)
		case kind == 6 && len(value) == 2:
			l.Idle = time.Duration(binary.BigEndian.Uint16(value)) * time.Second
		}
	}
	return nil
}

// A RefusedError is a goodbye frame in place of an address. A 2013 client gets io.EOF.
type RefusedError struct {
	Reason     byte
	RetryAfter time.Duration
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("refused with reason %d, retry after %s", e.Reason, e.RetryAfter)
}

func parseGoodbye(frame []byte) error {
	if len(frame) < frameLen+3 {
		return fmt.Errorf("goodbye frame cut short: % x", frame)
	}
	return &RefusedError{frame[frameLen], time.Duration(binary.BigEndian.Uint16(frame[frameLen+1:])) * time.Second}
}
