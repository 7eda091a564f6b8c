package ssh

import (
	"testing"

	"ferry/internal/carrier"
	"ferry/internal/carrier/carriertest"
)

func TestLink(t *testing.T) {
	carriertest.TestLink(t, func(t testing.TB) (client, gateway carrier.Link) {
		a, b := pair(t)
		return carrier.NewStream(a), carrier.NewStream(b)
	})
}
