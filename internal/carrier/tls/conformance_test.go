package tls

import (
	"crypto/tls"
	"testing"

	"ferry/internal/carrier"
	"ferry/internal/carrier/carriertest"
)

func TestLink(t *testing.T) {
	carriertest.TestLink(t, func(t testing.TB) (client, gateway carrier.Link) {
		a, b := socketPair(t)
		ours, theirs := pair(t, tls.TLS_AES_128_GCM_SHA256)
		return carrier.NewSecureStream(a, ours), carrier.NewSecureStream(b, theirs)
	})
}
