package forward

import (
	"strings"
	"testing"
)

var goodSSH = []struct{ side, text, from, to string }{
	{"L", "8080:10.0.0.1:80", "tcp://127.0.0.1:8080", "10.0.0.1:80"},
	{"L", "tcp:8080:10.0.0.1:80", "tcp://127.0.0.1:8080", "10.0.0.1:80"},
	{"L", "localhost:8080:intranet.example:80", "tcp://127.0.0.1:8080", "intranet.example:80"},
	{"L", ":8080:10.0.0.1:80", "tcp://:8080", "10.0.0.1:80"},
	{"L", "*:8080:10.0.0.1:80", "tcp://:8080", "10.0.0.1:80"},
	{"L", "[::1]:8080:[fd00::1]:80", "tcp://[::1]:8080", "[fd00::1]:80"},
	{"L", "192.0.2.1:0:10.0.0.1:80", "tcp://192.0.2.1:0", "10.0.0.1:80"},
	{"L", "8080+:10.0.0.1:80", "tcp://127.0.0.1:8080+", "10.0.0.1:80"},
	{"L", "8080+1000:10.0.0.1:80", "tcp://127.0.0.1:8080+1000", "10.0.0.1:80"},
	{"L", "udp:5353:10.0.0.1:53", "udp://127.0.0.1:5353", "10.0.0.1:53"},
	{"L", "udp:*:5353:10.0.0.1:53", "udp://:5353", "10.0.0.1:53"},
	{"L", "/run/x.sock:10.0.0.1:80", "unix:///run/x.sock", "10.0.0.1:80"},
	{"L", `/run/a\:b:10.0.0.1:80`, "unix:///run/a:b", "10.0.0.1:80"},
	{"R", "8080:localhost:80", "tcp://:8080", "localhost:80"},
	{"R", "*:8080:127.0.0.1:80", "tcp://:8080", "127.0.0.1:80"},
	{"R", ":0:[::1]:80", "tcp://:0", "[::1]:80"},
	{"R", "0.0.0.0:80+:cam.lan:80", "tcp://:80+", "cam.lan:80"},
	{"R", "udp:53:127.0.0.1:5353", "udp://:53", "127.0.0.1:5353"},
	{"R", "8080:/run/x.sock", "tcp://:8080", "unix:///run/x.sock"},
	{"R", "*:8080:/run/x.sock", "tcp://:8080", "unix:///run/x.sock"},
	{"R", "22:localhost:22?from=10.0.0.1,10.0.3.0/24", "tcp://:22?from=10.0.0.1,10.0.3.0/24", "localhost:22"},
	{"R", "8080:/run/x.sock?proxy=2", "tcp://:8080?proxy=2", "unix:///run/x.sock"},
	{"L", "*:8080:10.0.0.1:80?from=192.168.0.0/16&proxy=1", "tcp://:8080?from=192.168.0.0/16&proxy=1", "10.0.0.1:80"},
	{"L", "udp:*:53:[fd00::1]:53?from=::1", "udp://:53?from=::1", "[fd00::1]:53"},
	{"L", `/run/a\?b:10.0.0.1:80`, "unix:///run/a?b", "10.0.0.1:80"},
}

func parseSide(side, text string) (Spec, error) {
	if side == "L" {
		return ParseLocal(text)
	}
	return ParseRemote(text)
}

// What ssh(1) says about -L and -R, with udp and the next free port.
func TestParseSSH(t *testing.T) {
	for _, tt := range goodSSH {
		spec, err := parseSide(tt.side, tt.text)
		if err != nil || spec.From.String() != tt.from || spec.To.String() != tt.to {
			t.Errorf("-%s %s: got %s to %s, %v, want %s to %s", tt.side, tt.text, spec.From, spec.To, err, tt.from, tt.to)
		}
	}
}

func TestParseSSHFaults(t *testing.T) {
	for _, tt := range []struct{ side, text, want string }{
		{"L", "", "write [bind:]port:host:hostport"},
		{"L", "8080", "write [bind:]port:host:hostport"},
		{"L", "10.0.0.1:80", "write [bind:]port:host:hostport"},
		{"L", "a:b:8080:10.0.0.1:80", "write [bind:]port:host:hostport"},
		{"L", "sctp:8080:10.0.0.1:80", "no address of this device"},
		{"L", "80800:10.0.0.1:80", "not a port"},
		{"L", ":10.0.0.1:80", "not a port"},
		{"L", "8080:10.0.0.1:0", "port 0"},
		{"L", "8080::80", "neither an address nor a name"},
		{"L", "8080:0.0.0.0:80", "no address to connect to"},
		{"L", "8080:localhost:80", "this device itself"},
		{"L", "8080:127.0.0.1:80", "this device itself"},
		{"L", "8080:/run/x.sock", "no unix sockets"},
		{"L", "example.org:8080:10.0.0.1:80", "no address of this device"},
		{"L", "[::1:8080:10.0.0.1:80", "']' is missing"},
		{"L", "::1:8080:10.0.0.1:80", "write [bind:]port:host:hostport"},
		{"L", "udp:/run/x.sock:10.0.0.1:53", "unix sockets are for tcp"},
		{"L", "/run/../x:10.0.0.1:80", "no path of a socket"},
		{"L", "/" + strings.Repeat("x", 107) + ":10.0.0.1:80", "longer than 107"},
		{"L", "0+:10.0.0.1:80", "next free port"},
		{"R", "10.0.0.5:8080:127.0.0.1:80", "what the gateway gives"},
		{"R", "/run/x.sock:127.0.0.1:80", "no unix sockets"},
		{"R", "/run/x.sock:/run/y.sock", "no unix sockets"},
		{"R", "udp:53:/run/x.sock", "unix sockets are for tcp"},
		{"R", "22:localhost:22?from=cam1", "no network and no address"},
		{"R", "22:localhost:22?to=10.0.0.1", "unknown option"},
		{"R", "udp:53:localhost:53?proxy=1", "leave out proxy"},
		{"L", "8080:10.0.0.1:80?source=10.0.0.5", "leave out source"},
		{"L", "/run/x.sock:10.0.0.1:80?from=10.0.0.5", "leave out from"},
		{"R", "8080", "write [bind:]port:host:hostport"},
	} {
		if s, err := parseSide(tt.side, tt.text); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), `"`+tt.text) {
			t.Errorf("-%s %s: got %v, %v, want %q", tt.side, tt.text, s, err, tt.want)
		}
	}
}

func FuzzParseSSH(f *testing.F) {
	for _, tt := range goodSSH {
		f.Add(tt.side == "L", tt.text)
	}
	f.Fuzz(func(t *testing.T, local bool, text string) {
		side := "R"
		if local {
			side = "L"
		}
		spec, err := parseSide(side, text)
		if err != nil {
			return
		}
		if e, err := ParseEntrance(spec.From.String()); err != nil && spec.From.Path == "" {
			t.Errorf("%q listens on %s, which is %v, %v", text, spec.From, e, err)
		}
		if spec.To.Path == "" == (spec.To.Port == 0) {
			t.Errorf("%q leads to %v", text, spec.To)
		}
	})
}
