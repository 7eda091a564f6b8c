package proto

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// A list is bounded, and what makes no sense ends the connection: nothing is made of it.
func TestPublishMalformed(t *testing.T) {
	service := Service{At: 80, Addr: netip.IPv4Unspecified(), Port: 80, Name: strings.Repeat("x", 2*MaxServiceName)}
	m := PublishMessage{Serial: 1}
	for range MaxServices + 1 {
		m.Services = append(m.Services, service)
	}
	frame := AppendPublish(nil, m)
	got, err := ParsePublish(frame)
	if err != nil || len(got.Services) != MaxServices || len(got.Services[0].Name) != MaxServiceName || len(frame) > FrameHeaderLen+MaxControl {
		t.Fatalf("got %d services in %d bytes, %v", len(got.Services), len(frame), err)
	}
	one := frame[FrameHeaderLen+9:][:11+MaxServiceName]
	if _, err := ParsePublish(append(frame, one...)); !errors.Is(err, ErrMessage) {
		t.Errorf("one more than %d: got %v", MaxServices, err)
	}
	for what, text := range map[string]string{
		"nothing":               "",
		"another type":          "02 0000000000000001",
		"no serial number":      "01 00000000000000",
		"a high serial number":  "01 4000000000000000",
		"no port of the tunnel": "01 0000000000000001 06 0000 0050 04 00000000 00",
		"no port":               "01 0000000000000001 06 0050 0000 04 00000000 00",
		"SCTP":                  "01 0000000000000001 84 0050 0050 04 00000000 00",
		"half an address":       "01 0000000000000001 06 0050 0050 04 0000",
		"an address of 5 bytes": "01 0000000000000001 06 0050 0050 05 0000000000 00",
		"an address of both":    "01 0000000000000001 06 0050 0050 10 00000000000000000000ffff0a000001 00",
		"no name":               "01 0000000000000001 06 0050 0050 04 00000000",
		"half a name":           "01 0000000000000001 06 0050 0050 04 00000000 05 6162",
		"a long name":           "01 0000000000000001 06 0050 0050 04 00000000 21 " + strings.Repeat("61", 33),
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if m, err := ParsePublish(appendFrame(nil, typeMore, b)); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: got %+v, %v", what, m, err)
		}
	}
}
