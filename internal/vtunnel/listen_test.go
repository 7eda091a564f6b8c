package vtunnel

import (
	"strings"
	"testing"

	"ferry/internal/carrier"
)

func TestParseListen(t *testing.T) {
	for _, test := range []struct {
		url, at, auth, accept string
		err                   string // a part of it
	}{
		{url: "vsock://", at: "vsock://:6666"},
		{url: "vsock://:7000?cid=3", at: "vsock://:7000"},
		{url: "unix:///run/vt", at: "unix:///run/vt"},
		{url: "tcp://127.0.0.1?auth=secret&accept=10.0.0.0/8,127.0.0.9/8", at: "tcp://127.0.0.1:6666", auth: "secret", accept: "10.0.0.0/8 127.0.0.0/8"},
		{url: "tcp://:6666", err: "name an address"},
		{url: "quic://127.0.0.1:6666", err: "goes by vsock, unix or tcp"},
		{url: "vsock://:6666?accept=127.0.0.1", err: "127.0.0.1/32"},
		{url: "vsock://:6666?accept=fd00::/8", err: "no IPv4 network"},
		{url: "vsock://:6666?auth=", err: "not empty"},
		{url: "vsock://:6666?auth=a%20b", err: "no spaces"},
		{url: "vsock://:6666?auth=a&auth=b", err: "once"},
		{url: "vsock://:6666?allow=plain", err: "allow="},
		{url: "vsock://:6666?secret=x", err: "only a host and a port"},
	} {
		l, err := ParseListen(test.url)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: got %v, want %q", test.url, err, test.err)
			}
			continue
		}
		var accept []string
		for _, p := range l.Accept {
			accept = append(accept, p.String())
		}
		if got := strings.Join(accept, " "); err != nil || l.String() != test.at || l.Auth != test.auth || got != test.accept {
			t.Errorf("%s: got %s, %q, %q, %v", test.url, l, l.Auth, got, err)
		}
	}
}

func FuzzParseListen(f *testing.F) {
	f.Add("vsock://:6666?auth=x&accept=127.0.0.1/32")
	f.Add("unix:///s?uid=0")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseListen(s)
		if err != nil {
			return
		}
		if _, err := ParseListen(l.String()); err != nil {
			t.Errorf("%q: its own URL %s is none: %v", s, l, err)
		}
	})
}

// Who a server is, seen from each kind of machine.
func TestServerOf(t *testing.T) {
	cid := func(n uint32) *uint32 { return &n }
	guest, nested, host, vmkernel := Machine{CID: 3}, Machine{CID: 3, Vhost: true}, Machine{CID: 2, Vhost: true}, Machine{CID: carrier.AnyCID, Vhost: true}
	for _, test := range []struct {
		name string
		m    Machine
		cid  *uint32
		want uint32
		err  string
	}{
		{"guest", guest, nil, 2, ""},
		{"guest that names one", guest, cid(4), 0, "guest cannot set destination cid\nvtunnel: my cid: 3"},
		{"guest with the module of a host", nested, nil, 2, ""}, // the original dials 0
		{"guest with guests", nested, cid(4), 4, ""},
		{"host", host, cid(4), 4, ""},
		{"host of nobody", host, nil, 0, "could not determine destination machine"},
		{"host to itself", host, cid(1), 0, "cannot set dst_cid to reserved value 1"},
		{"host to 0", host, cid(0), 0, "host cannot connect to reserved value 0"},
		{"host without an address", vmkernel, cid(4), 4, ""},
		{"kernel without a context ID", Machine{Vhost: true}, cid(4), 4, ""},
	} {
		e, err := test.m.Server(test.cid)
		switch {
		case test.err != "":
			if err == nil || err.Error() != test.err {
				t.Errorf("%s: got %v, want %q", test.name, err, test.err)
			}
		case err != nil || e.CID != test.want || e.Port != DefaultPort:
			t.Errorf("%s: got %s, %v, want context ID %d", test.name, e, err, test.want)
		}
	}
}
