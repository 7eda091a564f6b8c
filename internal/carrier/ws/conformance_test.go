package ws

import (
	"testing"

	"ferry/internal/carrier"
	"ferry/internal/carrier/carriertest"
)

func TestLink(t *testing.T) {
	for _, scheme := range []string{"ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			carriertest.TestLink(t, func(t testing.TB) (client, gateway carrier.Link) {
				a, b := pair(t, scheme)
				return carrier.NewStream(a), carrier.NewStream(b)
			})
		})
	}
}
