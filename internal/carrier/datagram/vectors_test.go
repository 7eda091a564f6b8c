package datagram

import (
	"bytes"
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"testing"
)

// A vector is a record of testdata/vectors.txt.
type vector struct {
	*testing.T
	fields map[string]string
}

func (v vector) bytes(name string) []byte {
	v.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(v.fields[name], " ", ""))
	if err != nil {
		v.Fatalf("%s: %v", name, err)
	}
	return b
}

func (v vector) number(name string, base int) uint64 {
	v.Helper()
	n, err := strconv.ParseUint(v.fields[name], base, 64)
	if err != nil {
		v.Fatalf("%s: %v", name, err)
	}
	return n
}

func (v vector) want(name string, got []byte) {
	v.Helper()
	if want := v.bytes(name); !bytes.Equal(got, want) {
		v.Errorf("%s: got %x, want %x", name, got, want)
	}
}

// Whoever writes the other end from docs/protocol.md has these packets to compare with.
func TestVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for record := range strings.SplitSeq(string(text), "\n\n") {
		v := vector{fields: map[string]string{}}
		for line := range strings.Lines(record) {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && key != "#" {
				v.fields[key] = value
			}
		}
		name := v.fields["name"]
		kind, _, _ := strings.Cut(name, ":")
		check := map[string]func(vector){"initial": checkInitial, "data": checkData, "retry": checkFixed, "unknown": checkFixed}[kind]
		switch {
		case name == "":
			continue
		case check == nil:
			t.Fatalf("%s: nobody checks that", name)
		}
		seen[kind]++
		t.Run(name, func(t *testing.T) {
			v.T = t
			check(v)
		})
	}
	for kind, want := range map[string]int{"initial": 3, "data": 4, "retry": 1, "unknown": 1} {
		if seen[kind] < want {
			t.Errorf("%s: %d vectors, want %d", kind, seen[kind], want)
		}
	}
}

// checkInitial makes the packet of its fields, and opens it.
func checkInitial(v vector) {
	h := longHeader{kind: typeInitial, id: v.number("client", 16), number: v.number("number", 10)}
	if v.fields["cookie"] != "" {
		h.kind, h.cookie = typeCookie, v.bytes("cookie")
	}
	s, server, err := initialSecrets(h.id)
	if err != nil {
		v.Fatal(err)
	}
	if v.fields["from"] == "gateway" {
		s = server
	}
	checkPacket(v, s, appendLong(nil, h), h.number)
}

// checkData does the same with a packet of data.
func checkData(v vector) {
	s, err := newSecret(uint16(v.number("suite", 16)), v.bytes("secret"))
	if err != nil {
		v.Fatal(err)
	}
	number := v.number("number", 10)
	for range number >> generation {
		if s, err = s.next(); err != nil {
			v.Fatal(err)
		}
	}
	header := v.bytes("header")
	checkPacket(v, s, header, number)
	if len(header) != shortLen || isLong(header) {
		v.Errorf("the header is none of a data packet")
	}
}

func checkPacket(v vector, s secret, header []byte, number uint64) {
	k, err := s.key()
	if err != nil {
		v.Fatal(err)
	}
	key, err := s.expand("key", s.KeyLen)
	if err != nil {
		v.Fatal(err)
	}
	v.want("key", key)
	v.want("iv", k.iv[:])
	plain, n := v.bytes("plain"), len(header)
	packet := k.seal(new(nonce), append(header, plain...), n, number)
	v.want("packet", packet)
	if got, err := k.open(new(nonce), nil, v.bytes("packet"), n, number); err != nil || !bytes.Equal(got, plain) {
		v.Errorf("opened: %x, %v; want %x", got, err, plain)
	}
}

// checkFixed makes and reads one of the packets that are not encrypted.
func checkFixed(v vector) {
	kind, length := byte(typeRetry), retryLen
	if strings.HasPrefix(v.fields["name"], "unknown") {
		kind, length = typeUnknown, lostLen
	}
	v.want("packet", appendFixed(nil, kind, v.number("id", 16), v.bytes("rest")))
	id, rest, ok := parseFixed(v.bytes("packet"), kind, length)
	if !ok || id != v.number("id", 16) || !bytes.Equal(rest, v.bytes("rest")) {
		v.Errorf("read as %x, %x, %v", id, rest, ok)
	}
}
