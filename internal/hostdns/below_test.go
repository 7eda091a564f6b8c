package hostdns

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// The name servers of the network below are known, whoever has written the file, and while ours are in place.
func TestBelow(t *testing.T) {
	for _, tt := range []struct {
		name, text, link, uplinks string
		inside, want              []string
	}{
		{name: "a file", text: old + "nameserver fe80::1%eth0\nnameserver nonsense\n", want: []string{"192.168.1.1", "fe80::1%eth0"}},
		{name: "none"},
		{name: "systemd-resolved", text: "nameserver 127.0.0.53\n", uplinks: "nameserver 192.0.2.1\nnameserver 192.0.2.2\n", want: []string{"192.0.2.1", "192.0.2.2"}},
		{name: "systemd-resolved, with those of the tunnel", text: "nameserver 127.0.0.53\n", uplinks: "nameserver 10.0.0.1\nnameserver 192.0.2.1\nnameserver 10.0.0.2\n",
			inside: []string{"10.0.0.2", "10.0.0.1", "10.0.0.3"}, want: []string{"192.0.2.1"}},
		{name: "systemd-resolved, with the same two times", text: "nameserver 127.0.0.53\n", uplinks: "nameserver 10.0.0.1\nnameserver 10.0.0.1\n",
			inside: []string{"10.0.0.1"}, want: []string{"10.0.0.1"}},
		{name: "a file that has the same", text: old, inside: []string{"192.168.1.1"}, want: []string{"192.168.1.1"}},
		{name: "systemd-resolved, which does not say", text: "nameserver 127.0.0.53\n", want: []string{"127.0.0.53"}},
		{name: "a link", link: "elsewhere", text: old, want: []string{"192.168.1.1"}},
		{name: "a resolver beside it", text: "nameserver 127.0.0.53\nnameserver 192.168.1.1\n", uplinks: "nameserver 192.0.2.1\n", want: []string{"127.0.0.53", "192.168.1.1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, log := newLink(t, "ferry0")
			uplinks := filepath.Join(filepath.Dir(l.file), "uplinks")
			write := func(file, text string) {
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			switch {
			case tt.link != "":
				write(filepath.Join(filepath.Dir(l.file), tt.link), tt.text)
				if err := os.Symlink(tt.link, l.file); err != nil {
					t.Fatal(err)
				}
			case tt.text != "":
				write(l.file, tt.text)
			}
			if tt.uplinks != "" {
				write(uplinks, tt.uplinks)
			}
			addrs := func(text []string) (all []netip.Addr) {
				for _, a := range text {
					all = append(all, netip.MustParseAddr(a))
				}
				return all
			}
			inside, want := addrs(tt.inside), addrs(tt.want)
			if got := l.below(uplinks, inside); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			if err := l.write(full); err != nil {
				t.Fatal(err, log)
			}
			if got := l.below(uplinks, inside); !slices.Equal(got, want) {
				t.Errorf("with ours in its place: got %v, want %v", got, want)
			}
		})
	}
}
