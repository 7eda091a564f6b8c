package gateway

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"ferry/internal/identity"
	"ferry/internal/proto"
)

// fragments cuts what is to be one data item into two parts.
func fragments(number uint64, item []byte) (b []byte) {
	half := (len(item) + 1) / 2
	for at := 0; at < len(item); at += half {
		b = proto.AppendFragment(b, proto.FragmentMessage{Number: number, Offset: at, Len: len(item), Part: item[at:min(at+half, len(item))]})
	}
	return b
}

// What is put together of fragments is one data item, or nothing: its header decides what the next client reads.
func TestFragmentsOfNonsense(t *testing.T) {
	packet := ipPacket("10.0.3.7", "10.0.3.8")
	frame := append(make([]byte, proto.DataHeaderLen), packet...)
	proto.PutBareHeader(frame, len(packet))
	goodbye, short, long := bytes.Clone(frame), bytes.Clone(frame), bytes.Clone(frame)
	goodbye[0] = proto.AppendGoodbye(nil, proto.GoodbyeMessage{})[0]
	binary.BigEndian.PutUint16(short[2:], 10)
	binary.BigEndian.PutUint16(long[2:], 100)
	for _, tt := range []struct {
		name   string
		super  bool
		item   []byte
		passes bool
	}{
		{"a data frame", true, frame, true},
		{"a packet", true, packet, true},
		{"a data frame, which was not agreed upon", false, frame, false},
		{"one byte of a frame", true, frame[:1], false},
		{"a goodbye", true, goodbye, false},
		{"a frame that is longer than it says", true, short, false},
		{"a frame that is shorter than it says", true, long, false},
		{"two packets", true, append(bytes.Clone(packet), packet...), false},
		{"a request", true, request("10.0.3.9", 0), false},
	} {
		withKey(t, func(l *lab) error {
			cam, err := l.add("cam1", "10.0.3.7")
			if err != nil {
				return err
			}
			hub, err := l.add("hub", "10.0.3.8")
			if err != nil {
				return err
			}
			features := sessionFeatures
			if tt.super {
				features |= proto.FeatureSuper
			}
			one := l.dialTLS(identity.Tunnel, cam)
			one.send(request("", features))
			l.settle()
			other := l.dialTLS(identity.Tunnel, hub)
			other.send(request("", proto.FeatureGoodbye|proto.FeatureSuper))
			l.settle()
			other.take()
			one.take()
			one.send(fragments(0, tt.item))
			l.settle()
			got, ended := other.take()
			if passes := bytes.HasSuffix(got, packet); passes != tt.passes || ended || !passes && len(got) > 0 {
				return fmt.Errorf("%s: the other client got %x", tt.name, got)
			}
			if _, ended := one.take(); ended == tt.passes {
				return fmt.Errorf("%s: connection ended %v", tt.name, ended)
			}
			return nil
		})
	}
}
