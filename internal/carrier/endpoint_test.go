package carrier

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		in     string
		port   int
		listen string // "": an error
		dial   string
	}{
		{"tcp://:2002", 0, "tcp://:2002", ""},
		{"tcp://192.168.0.1:99", 0, "tcp://192.168.0.1:99", "tcp://192.168.0.1:99"},
		{"tcp://[2001:db8::1]:99", 0, "tcp://[2001:db8::1]:99", "tcp://[2001:db8::1]:99"},
		{"tcp://host", 99, "tcp://host:2002", "tcp://host:99"},
		{"192.168.0.1", 0, "", "tcp://192.168.0.1:2002"},
		{"192.168.0.1", 99, "", "tcp://192.168.0.1:99"},
		{"192.168.0.1:77", 99, "", "tcp://192.168.0.1:77"},
		{"gateway.example.org", 0, "", "tcp://gateway.example.org:2002"},
		{"2001:db8::1", 0, "", "tcp://[2001:db8::1]:2002"},
		{"fe80::1%eth0", 0, "", "tcp://[fe80::1%25eth0]:2002"},
		{"[2001:db8::1]:77", 0, "", "tcp://[2001:db8::1]:77"},
		{"udp://host", 99, "udp://host:2002", "udp://host:99"},
		{"udp://:2002", 0, "udp://:2002", ""},
		{"udp://[2001:db8::1]:99", 0, "udp://[2001:db8::1]:99", "udp://[2001:db8::1]:99"},
		{"udp://host:65536", 0, "", ""},
		{"vsock://:2002", 0, "vsock://:2002", ""},
		{"vsock://2:2002", 0, "vsock://2:2002", "vsock://2:2002"},
		{"vsock://2:70000", 0, "vsock://2:70000", "vsock://2:70000"},
		{"vsock://2", 99, "vsock://2:2002", "vsock://2:99"},
		{"vsock://host:1", 0, "", ""},
		{"unix:///run/vm.sock_2002", 0, "unix:///run/vm.sock_2002", "unix:///run/vm.sock_2002"},
		{"unix:///run/vm.sock?vsock=2002", 0, "", "unix:///run/vm.sock?vsock=2002"},
		{"unix:///run/vm.sock?vsock=x", 0, "", ""},
		{"unix:///run/vm.sock?vsok=1", 0, "", ""},
		{"unix://relative", 0, "", ""},
		{"tcp://host:0", 0, "", ""},
		{"tcp://host:65536", 0, "", ""},
		{"tcp://host:1/path", 0, "", ""},
		{"udp://:2002", 0, "udp://:2002", ""},
		{"udp://host", 99, "udp://host:2002", "udp://host:99"},
		{"quic://[2001:db8::1]:443", 0, "quic://[2001:db8::1]:443", "quic://[2001:db8::1]:443"},
		{"icmp://host", 99, "icmp://host", "icmp://host"},
		{"icmp://192.0.2.1/", 0, "icmp://192.0.2.1", "icmp://192.0.2.1"},
		{"icmp://", 0, "icmp://", ""},
		{"icmp://host:1", 0, "", ""},
		{"icmp://host/path", 0, "", ""},
		{"ssh://host", 99, "ssh://host:2022", "ssh://host:2022"},
		{"ws://host", 99, "ws://host:80/ferry", "ws://host:80/ferry"},
		{"wss://host", 0, "wss://host:443/ferry", "wss://host:443/ferry"},
		{"wss://host:8443/a/b", 0, "wss://host:8443/a/b", "wss://host:8443/a/b"},
		{"wss://:443/ferry", 0, "wss://:443/ferry", ""},
		{"wss://host/a?b=c", 0, "", ""},
		{"wss://host/a#b", 0, "", ""},
		{"wss://u:p@host", 0, "", ""},
		{"wss://ho st", 0, "", ""},
		{"ssh://host/path", 0, "", ""},
		{"dns://t.example.org", 99, "dns://t.example.org", "dns://t.example.org"},
		{"dns://T.Example.org.:5353", 0, "dns://t.example.org:5353", "dns://t.example.org:5353"},
		{"dns:///t.example.org", 0, "dns://t.example.org", "dns://t.example.org"},
		{"dns://:53/t.example.org", 0, "dns://t.example.org", "dns://t.example.org"},
		{"dns://192.0.2.1/t.example.org", 0, "dns://192.0.2.1:53/t.example.org", "dns://192.0.2.1:53/t.example.org"},
		{"dns://[2001:db8::1]:54/t.example.org", 0, "dns://[2001:db8::1]:54/t.example.org", "dns://[2001:db8::1]:54/t.example.org"},
		{"dns://192.0.2.1", 0, "", ""},
		{"dns://gateway", 0, "", ""},
		{"dns://192.0.2.1/", 0, "", ""},
		{"dns://192.0.2.1/a..b", 0, "", ""},
		{"dns://192.0.2.1/a.b/c", 0, "", ""},
		{"dns://t.ex ample", 0, "", ""},
		{"dns://t.example.org?type=TXT", 0, "", ""},
		{"dns://" + strings.Repeat("a.", 40) + "b", 0, "", ""},
		{"http://host", 0, "", ""},
		{"", 0, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			l, err := ParseListen(tt.in)
			checkEndpoint(t, "listen", l.Endpoint, err, tt.listen)
			e, err := ParseDial(tt.in, tt.port)
			checkEndpoint(t, "dial", e, err, tt.dial)
		})
	}
}

func checkEndpoint(t *testing.T, what string, e Endpoint, err error, want string) {
	t.Helper()
	got := ""
	if err == nil {
		got = e.String()
	} else if strings.ContainsAny(err.Error(), "\n") {
		t.Errorf("%s: error of more than one line: %q", what, err)
	}
	if got != want {
		t.Errorf("%s: got %q (%v), want %q", what, got, err, want)
	}
}

// What is parsed is written as a URL that is parsed to the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"tcp://:2002", "192.168.0.1", "2001:db8::1", "[fe80::1%25eth0]:77", "vsock://2:2002", "unix:///run/vm.sock?vsock=2002", "unix:///a b",
		"dns://t.example.org", "dns://[::1]:54/t.example.org",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseDial(s, 0)
		if err != nil {
			return
		}
		if again, err := ParseDial(e.String(), 0); err != nil || again != e {
			t.Errorf("%q: %+v becomes %q, which is %+v, %v", s, e, e.String(), again, err)
		}
	})
}
