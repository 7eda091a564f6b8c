//go:build !race

package ssh

import (
	"errors"
	"testing"
)

// Two key exchanges in a row, the second of which comes to nothing, do not end the gateway: handshake tells why. The
// library's part of it is a race, so the detector must not see this.
func TestSecondExchange(t *testing.T) {
	for range 300 {
		s, served := visit(t, within(t), everybody)
		s.behind = kexInitOf("none")
		s.exchange()
		_ = s.CloseWrite()
		if r := <-served; !errors.Is(r.err, ErrHandshake) {
			t.Errorf("got %v, want %v", r.err, ErrHandshake)
		}
	}
}
