package gateway

import (
	"testing"

	"ferry/internal/carrier"
	"ferry/internal/identity"
)

// Clients of RFC 9484 come with a key, unless a listener allows others, or the gateway has no key itself.
func TestListenConnectIP(t *testing.T) {
	for _, tt := range []struct {
		url  string
		key  bool
		want carrier.Modes // 0: an error
	}{
		{"connect-ip://:443", true, carrier.TLS},
		{"connect-ip://:443?allow=plain", true, carrier.Plain},
		{"connect-ip://:443?allow=both", true, carrier.Plain | carrier.TLS},
		{"connect-ip://:443", false, carrier.Plain},
		{"connect-ip://:443?allow=tls", false, 0},
		{"connect-ip+h1://:443", true, carrier.TLS | carrier.Web},
		{"connect-ip+h1://:443", false, 0},
		{"quic://:443?allow=both", true, 0},
	} {
		c := &Config{}
		if tt.key {
			c.Key = identity.NewKey()
		}
		l, err := parseListen(c, tt.url)
		if tt.want == 0 && err == nil || tt.want != 0 && (err != nil || l.Allow != tt.want) {
			t.Errorf("%s, with a key: %t: allows %s, %v; want %s", tt.url, tt.key, l.Allow, err, tt.want)
		}
	}
}
