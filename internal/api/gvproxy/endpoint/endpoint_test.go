package endpoint

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for url, want := range map[string]string{
		"unix:///run/gv.sock":              "",
		"unix:///run/gv.sock?uid=0,1000":   "",
		"vsock://:1024":                    "",
		"vsock://2:1024?cid=3":             "",
		"tcp://127.0.0.1:7777":             "",
		"tcp://[::1]:7777":                 "",
		"tcp://0.0.0.0:7777?from=anywhere": "",
		"tcp://0.0.0.0:7777":               "no authentication",
		"tcp://:7777":                      "no authentication",
		"tcp://localhost:7777":             "no authentication",
		"tcp://127.0.0.1":                  "name a port",
		"vsock://":                         "name a port",
		"udp://127.0.0.1:1":                "goes by unix, vsock or tcp",
		"unixpacket:///x":                  "goes by unix, vsock or tcp",
		"unix:///run/gv.sock?allow=plain":  "allow=",
		"unix:///x?from=anywhere":          "",
		"vsock://null:1024/tmp":            "",
	} {
		e, err := Parse(url)
		switch {
		case strings.HasPrefix(url, "vsock://null") || strings.HasPrefix(url, "unix:///x?"): // the carriers have words for these
			if err == nil {
				t.Errorf("%s: taken", url)
			}
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %q", url, err, want)
		case want == "" && (e.SocketPath() != "") != (e.Scheme == "unix"):
			t.Errorf("%s: socket %q", url, e.SocketPath())
		}
	}
}

func TestParseNotification(t *testing.T) {
	for url, want := range map[string]string{"unix:///run/n.sock": "/run/n.sock", "unix://n.sock": "", "/run/n.sock": "", "tcp://127.0.0.1:1": "", "unix:///a?b": ""} {
		if got, err := ParseNotification(url); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", url, got, err)
		}
	}
}
