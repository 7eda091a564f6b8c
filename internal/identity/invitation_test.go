package identity

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"ferry/internal/proto"
)

func testInvitation() Invitation {
	return Invitation{Servers: []string{"192.168.0.1", "tcp://[fd00::1]:443"}, Gateway: Pin{1, 2, 3}, Secret: proto.Secret{4, 5}}
}

func same(a, b Invitation) bool {
	return a.Gateway == b.Gateway && a.Secret == b.Secret && slices.Equal(a.Servers, b.Servers)
}

func TestInvitation(t *testing.T) {
	want := testInvitation()
	text := want.String()
	for _, s := range []string{text, " " + text + "\n"} {
		if got, err := ParseInvitation(s); err != nil || !same(got, want) {
			t.Errorf("%q: got %+v, %v", s, got, err)
		}
	}
	if a, b := NewSecret(), NewSecret(); a == b || a == (proto.Secret{}) {
		t.Error("two secrets are equal")
	}
}

// What is lost, changed or added in copying is noticed, wherever it is.
func TestDamagedInvitation(t *testing.T) {
	text := testInvitation().String()
	refused := func(s string) {
		t.Helper()
		if _, err := ParseInvitation(s); !errors.Is(err, ErrInvitation) {
			t.Errorf("%q: got %v, want %v", s, err, ErrInvitation)
		}
	}
	for i := range text {
		refused(text[:i])
		refused(text[:i] + text[i+1:])
		swapped := []byte(text)
		swapped[i] ^= 1
		refused(string(swapped))
		if i > 0 {
			refused(text[:i] + "\n" + text[i:])
		}
	}
	refused(text + "A")
	refused("")
	refused(strings.ToUpper(text))
	refused(Invitation{}.String())
	refused(Invitation{Servers: []string{""}}.String())
	refused(Invitation{Servers: []string{"a", "", "b"}}.String())
	refused(Invitation{Servers: []string{strings.Repeat("x", maxInvitation)}}.String())
}

func FuzzParseInvitation(f *testing.F) {
	f.Add(testInvitation().String())
	f.Add(Invitation{Servers: []string{"gw"}}.String())
	f.Fuzz(func(t *testing.T, s string) {
		i, err := ParseInvitation(s)
		if err != nil {
			return
		}
		if got := i.String(); got != strings.TrimSpace(s) {
			t.Errorf("%q became %q", s, got)
		}
		if len(i.Servers) == 0 || slices.Contains(i.Servers, "") {
			t.Errorf("servers %q", i.Servers)
		}
	})
}
