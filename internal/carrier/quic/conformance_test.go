package quic

import (
	"testing"

	"ferry/internal/carrier"
	"ferry/internal/carrier/carriertest"
)

func TestLink(t *testing.T) {
	noGoroutines(t)
	carriertest.TestLink(t, func(t testing.TB) (client, gateway carrier.Link) { return pair(t) })
}
