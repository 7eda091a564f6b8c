package dns

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The vectors are for others who implement this; docs/protocol.md is the text to them.
func TestVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for record := range strings.SplitSeq(string(text), "\n\n") {
		v := map[string]string{}
		for line := range strings.Lines(record) {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && key != "#" {
				v[key] = v[key] + value
			}
		}
		if v["name"] == "" {
			continue
		}
		n++
		t.Run(v["name"], func(t *testing.T) { vector(t, v) })
	}
	if n < 5 {
		t.Errorf("%d vectors", n)
	}
}

func vector(t *testing.T, v map[string]string) {
	bytesOf := func(key string) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(v[key], " ", ""))
		if err != nil {
			t.Fatal(key, err)
		}
		return b
	}
	number := func(key string) uint64 {
		n, err := strconv.ParseUint(v[key], 0, 64)
		if err != nil {
			t.Fatal(key, err)
		}
		return n
	}
	z := newZone(v["zone"])
	want := query{client: number("client"), number: uint32(number("number")), test: v["test"] == "yes", data: bytesOf("data")}
	question := bytesOf("question")
	if got := appendQuestion(nil, uint16(number("id")), z, want); !bytes.Equal(got, question) {
		t.Errorf("the question is %x", got)
	}
	_, q, got, verdict := authority{z}.judge(nil, make([]byte, maxName), question, netip.Addr{}, netip.Addr{}, false)
	if verdict != asked || got.client != want.client || got.number != want.number || got.test != want.test || !bytes.Equal(got.data, want.data) {
		t.Errorf("it is read as %+v", got)
	}
	answer := bytesOf("answer")
	var b []byte
	switch {
	case v["truncated"] == "yes":
		b = appendTruncated(nil, &q)
	case want.test:
		b = appendText(nil, &q, textTest, make([]byte, number("length")))
	default:
		b = appendData(nil, &q, time.Duration(number("held"))*time.Millisecond, bytesOf("datagram"), false)
	}
	if !bytes.Equal(b, answer) {
		t.Errorf("the answer is %x", b)
	}
	r, err := parseReply(make([]byte, maxMessage), answer, q.raw)
	if err != nil || r.truncated != (v["truncated"] == "yes") {
		t.Fatalf("the answer is read as %+v, %v", r, err)
	}
	if !r.truncated && !want.test && !bytes.Equal(r.text[heldLen:], bytesOf("datagram")) {
		t.Errorf("the answer has %x", r.text)
	}
}
