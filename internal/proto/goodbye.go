package proto

import (
	"encoding/binary"
	"fmt"
	"time"
)

// A Reason says why a connection is closed.
type Reason uint8

// The reasons of goodbye frames.
const (
	ReasonShutdown   Reason = 1 + iota // the program that says so is ending
	ReasonInUse                        // the address belongs to a live client
	ReasonHeld                         // the address is kept for a client that just vanished
	ReasonRefused                      // the address can not be had: outside the pool, reserved, the gateway's
	ReasonExhausted                    // no address is left
	ReasonReplaced                     // a newer connection of the same client took over
	ReasonSilent                       // nothing was heard for too long
	ReasonProtocol                     // something was sent that can not be understood
	ReasonFull                         // no more connections are taken
	ReasonStorage                      // the lease could not be written down
	ReasonRevoked                      // the key of the device was removed or disabled
	ReasonInvitation                   // the secret of a join frame opens nothing
	ReasonLifetime                     // the session is as old as one may become: a new one may begin at once
)

var reasonText = [...]string{
	ReasonShutdown:   "shutting down",
	ReasonInUse:      "address in use",
	ReasonHeld:       "address held for its owner",
	ReasonRefused:    "address can not be had",
	ReasonExhausted:  "no address left",
	ReasonReplaced:   "replaced by a newer connection",
	ReasonSilent:     "silent for too long",
	ReasonProtocol:   "protocol error",
	ReasonFull:       "too many connections",
	ReasonStorage:    "lease can not be stored",
	ReasonRevoked:    "the key of this device was removed or disabled",
	ReasonInvitation: "the invitation is unknown, used or expired",
	ReasonLifetime:   "the session is as old as one may become",
}

func (r Reason) String() string {
	if int(r) < len(reasonText) && reasonText[r] != "" {
		return reasonText[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// GoodbyeMessage is the last frame on a connection.
type GoodbyeMessage struct {
	Reason     Reason
	RetryAfter time.Duration // when the same request may be granted; whole seconds on the wire; 0: unknown
	Text       string        // for people; may be empty
}

// AppendGoodbye appends a goodbye frame: reason (1 byte), retry after (2 bytes, seconds), text.
func AppendGoodbye(b []byte, g GoodbyeMessage) []byte {
	p := []byte{byte(g.Reason)}
	p = binary.BigEndian.AppendUint16(p, uint16((g.RetryAfter+time.Second-1)/time.Second))
	return appendFrame(b, typeGoodbye, append(p, g.Text[:min(len(g.Text), 255)]...))
}

// ParseGoodbye reads a whole goodbye frame.
func ParseGoodbye(frame []byte) (GoodbyeMessage, error) {
	p := Payload(frame)
	if len(p) < 3 {
		return GoodbyeMessage{}, ErrMessage
	}
	return GoodbyeMessage{
		Reason:     Reason(p[0]),
		RetryAfter: time.Duration(binary.BigEndian.Uint16(p[1:])) * time.Second,
		Text:       Printable(string(p[3:])),
	}, nil
}
