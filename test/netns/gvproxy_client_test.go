package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containers/gvisor-tap-vsock/pkg/client"
	"github.com/containers/gvisor-tap-vsock/pkg/types"
)

// An apiSide is one of two programs that serve the same API.
type apiSide struct {
	*client.Client
	t   *testing.T
	raw *http.Client
	dir string // of its sockets
}

// shown is what came of a call, whichever side it was.
func (s *apiSide) shown(v any, err error) string {
	text := ""
	if err != nil {
		text = "error: " + err.Error()
	} else if v != nil {
		b, err := json.Marshal(v)
		if err != nil {
			s.t.Fatal(err)
		}
		text = string(b)
	}
	return strings.ReplaceAll(text, s.dir, "DIR")
}

// http is a request without the library: the status, how the body is called, and its bytes.
func (s *apiSide) http(method, path, body string) string {
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://unix"+path, strings.NewReader(strings.ReplaceAll(body, "DIR", s.dir)))
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := s.raw.Do(req)
	if err != nil {
		return "no answer"
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.ReplaceAll(fmt.Sprintf("%d %s %q", resp.StatusCode, resp.Header.Get("Content-Type"), b), s.dir, "DIR")
}

func (s *apiSide) expose(local, remote string, p types.TransportProtocol) string {
	return s.shown(nil, s.Expose(&types.ExposeRequest{Local: strings.ReplaceAll(local, "DIR", s.dir), Remote: remote, Protocol: p}))
}

func (s *apiSide) unexpose(local string, p types.TransportProtocol) string {
	return s.shown(nil, s.Unexpose(&types.UnexposeRequest{Local: strings.ReplaceAll(local, "DIR", s.dir), Protocol: p}))
}

func (s *apiSide) list() string { all, err := s.List(); return s.shown(all, err) }

// apiCalls are made of both sides, in this order: some depend on those before.
var apiCalls = []struct {
	name string
	do   func(*apiSide) string
}{
	{"list at first", (*apiSide).list},
	{"list at first, bytes", func(s *apiSide) string { return s.http("GET", "/services/forwarder/all", "") }},
	{"list by another verb", func(s *apiSide) string { return s.http("DELETE", "/services/forwarder/all", "") }},
	{"dns at first", func(s *apiSide) string { all, err := s.ListDNS(); return s.shown(all, err) }},
	{"dns at first, bytes", func(s *apiSide) string { return s.http("GET", "/services/dns/all", "") }},
	{"leases", func(s *apiSide) string { all, err := s.ListDHCPLeases(); return s.shown(all, err) }},
	{"leases, bytes", func(s *apiSide) string { return s.http("GET", "/services/dhcp/leases", "") }},
	{"leases, alias", func(s *apiSide) string { return s.http("GET", "/leases", "") }},
	{"cam", func(s *apiSide) string { return s.http("GET", "/cam", "") }},

	{"expose", func(s *apiSide) string { return s.expose(":6443", "192.168.127.2:6443", types.TCP) }},
	{"expose twice", func(s *apiSide) string { return s.expose(":6443", "192.168.127.2:6443", types.TCP) }},
	{"expose the same by udp", func(s *apiSide) string { return s.expose(":6443", "192.168.127.2:6443", types.UDP) }},
	{"expose without a protocol", func(s *apiSide) string { return s.expose("127.0.0.1:6444", "192.168.127.2:1", "") }},
	{"expose on an address", func(s *apiSide) string { return s.expose("0.0.0.0:6445", "192.168.127.3:65535", types.TCP) }},
	{"expose on IPv6", func(s *apiSide) string { return s.expose("[::1]:6446", "192.168.127.2:1", types.TCP) }},
	{"expose localhost", func(s *apiSide) string { return s.expose("localhost:6447", "192.168.127.2:1", types.TCP) }},
	{"expose bytes", func(s *apiSide) string {
		return s.http("POST", "/services/forwarder/expose", `{"LOCAL":":6448","remote":"192.168.127.2:1","other":1}`)
	}},
	{"expose unix", func(s *apiSide) string { return s.expose("DIR/x.sock", "tcp://192.168.127.2:80", types.UNIX) }},
	{"expose unix twice", func(s *apiSide) string { return s.expose("DIR/x.sock", "tcp://192.168.127.2:80", types.UNIX) }},
	{"list all", (*apiSide).list},
	{"list all, bytes", func(s *apiSide) string { return s.http("GET", "/services/forwarder/all", "") }},
	{"unexpose udp", func(s *apiSide) string { return s.unexpose(":6443", types.UDP) }},
	{"unexpose udp twice", func(s *apiSide) string { return s.unexpose(":6443", types.UDP) }},
	{"unexpose unix", func(s *apiSide) string { return s.unexpose("DIR/x.sock", types.UNIX) }},
	{"unexpose without a protocol", func(s *apiSide) string { return s.unexpose("127.0.0.1:6444", "") }},
	{"unexpose another spelling", func(s *apiSide) string { return s.unexpose("0.0.0.0:6443", types.TCP) }},
	{"unexpose nothing", func(s *apiSide) string { return s.unexpose("", "") }},
	{"expose again", func(s *apiSide) string { return s.expose("127.0.0.1:6444", "192.168.127.2:2", types.TCP) }},
	{"list in the end", (*apiSide).list},

	{"taken tcp", func(s *apiSide) string { return s.expose("127.0.0.1:7999", "192.168.127.2:1", types.TCP) }},
	{"taken on all", func(s *apiSide) string { return s.expose(":7999", "192.168.127.2:1", types.TCP) }},
	{"taken udp", func(s *apiSide) string { return s.expose("127.0.0.1:7999", "192.168.127.2:1", types.UDP) }},
	{"not an own address", func(s *apiSide) string { return s.expose("203.0.113.9:6449", "192.168.127.2:1", types.TCP) }},
	{"no such directory", func(s *apiSide) string { return s.expose("DIR/none/x.sock", "tcp://192.168.127.2:80", types.UNIX) }},
	{"local without a port", func(s *apiSide) string { return s.expose("nohost", "192.168.127.2:1", types.TCP) }},
	{"local without a port, udp", func(s *apiSide) string { return s.expose("nohost", "192.168.127.2:1", types.UDP) }},
	{"local port too large", func(s *apiSide) string { return s.expose(":70000", "192.168.127.2:1", types.TCP) }},
	{"local port too large, udp", func(s *apiSide) string { return s.expose(":70000", "192.168.127.2:1", types.UDP) }},
	{"remote without a port", func(s *apiSide) string { return s.expose(":6450", "nohost", types.TCP) }},
	{"remote without an address", func(s *apiSide) string { return s.expose(":6450", ":80", types.TCP) }},
	{"remote port too large", func(s *apiSide) string { return s.expose(":6450", "192.168.127.2:99999", types.TCP) }},
	{"remote port no number", func(s *apiSide) string { return s.expose(":6450", "192.168.127.2:http", types.UDP) }},
	{"remote of IPv6", func(s *apiSide) string { return s.expose(":6450", "[::1]:80", types.TCP) }},
	{"remote a name", func(s *apiSide) string { return s.expose(":6450", "localhost:80", types.TCP) }},
	{"remote outside", func(s *apiSide) string { return s.expose(":6451", "203.0.113.9:80", types.TCP) }},
	{"unknown protocol", func(s *apiSide) string { return s.expose(":6450", "192.168.127.2:80", "bogus") }},
	{"unix to nothing", func(s *apiSide) string { return s.expose("DIR/y.sock", "192.168.127.2:80", types.UNIX) }},
	{"unix to http", func(s *apiSide) string { return s.expose("DIR/y.sock", "http://192.168.127.2:80", types.UNIX) }},
	{"unix to no URL", func(s *apiSide) string { return s.expose("DIR/y.sock", "tcp://%zz", types.UNIX) }},
	{"unix by ssh without a key", func(s *apiSide) string {
		return s.expose("DIR/y.sock", "ssh-tunnel://core@192.168.127.2/run/p.sock", types.UNIX)
	}},
	{"unix by ssh without a path", func(s *apiSide) string {
		return s.expose("DIR/y.sock", "ssh-tunnel://core@192.168.127.2:22?key=/nowhere/key", types.UNIX)
	}},
	{"unix by ssh, key missing", func(s *apiSide) string {
		return s.expose("DIR/y.sock", "ssh-tunnel://core@192.168.127.2:22/run/p.sock?key=/nowhere/key", types.UNIX)
	}},
	{"unix over a file", func(s *apiSide) string { return s.expose("DIR/file", "tcp://192.168.127.2:80", types.UNIX) }},
	{"npipe", func(s *apiSide) string { return s.expose("npipe:////./pipe/x", "tcp://192.168.127.2:80", types.NPIPE) }},
	{"expose no JSON", func(s *apiSide) string { return s.http("POST", "/services/forwarder/expose", "{") }},
	{"expose nothing", func(s *apiSide) string { return s.http("POST", "/services/forwarder/expose", "") }},
	{"expose a wrong type", func(s *apiSide) string { return s.http("POST", "/services/forwarder/expose", `{"local":7}`) }},
	{"expose by GET", func(s *apiSide) string { return s.http("GET", "/services/forwarder/expose", "") }},
	{"unexpose by PUT", func(s *apiSide) string { return s.http("PUT", "/services/forwarder/unexpose", "{}") }},
	{"unexpose no JSON", func(s *apiSide) string { return s.http("POST", "/services/forwarder/unexpose", "[]") }},

	{"add dns", func(s *apiSide) string {
		return s.shown(nil, s.AddDNS(&types.Zone{Name: "w.test.", Records: []types.Record{{Name: "a", IP: net.ParseIP("10.0.0.1")}, {IP: net.ParseIP("1.2.3.4"), Regexp: regexp.MustCompile("^w.*$")}}}))
	}},
	{"add to it", func(s *apiSide) string {
		return s.shown(nil, s.AddDNS(&types.Zone{Name: "w.test.", DefaultIP: net.ParseIP("10.0.0.9"), Records: []types.Record{{Name: "a", IP: net.ParseIP("10.0.0.2")}}}))
	}},
	{"add to a first one", func(s *apiSide) string {
		return s.shown(nil, s.AddDNS(&types.Zone{Name: "containers.internal.", Records: []types.Record{{Name: "new", IP: net.ParseIP("10.0.0.3")}}}))
	}},
	{"add dns in small letters", func(s *apiSide) string {
		return s.http("POST", "/services/dns/add", `{"name":"small.test.","defaultip":"fd00::1"}`)
	}},
	{"dns in the end", func(s *apiSide) string { all, err := s.ListDNS(); return s.shown(all, err) }},
	{"dns in the end, bytes", func(s *apiSide) string { return s.http("GET", "/services/dns/all", "") }},
	{"add a bad address", func(s *apiSide) string { return s.http("POST", "/services/dns/add", `{"Name":"x.","DefaultIP":"x"}`) }},
	{"add a bad expression", func(s *apiSide) string {
		return s.http("POST", "/services/dns/add", `{"Name":"x.","Records":[{"Regexp":"("}]}`)
	}},
	{"add dns by GET", func(s *apiSide) string { return s.http("GET", "/services/dns/add", "") }},
	{"add no JSON", func(s *apiSide) string { return s.http("POST", "/services/dns/add", "x") }},
	{"add a zone without a name", func(s *apiSide) string { return s.http("POST", "/services/dns/add", `{}`) }},

	{"tunnel without ip", func(s *apiSide) string { return s.http("POST", "/tunnel", "") }},
	{"tunnel without a port", func(s *apiSide) string { return s.http("POST", "/tunnel?ip=192.168.127.2", "") }},
	{"tunnel port too large", func(s *apiSide) string { return s.http("POST", "/tunnel?ip=192.168.127.2&port=99999", "") }},
	{"tunnel to a name", func(s *apiSide) string { return s.http("POST", "/tunnel?ip=localhost&port=80", "") }},
	{"unknown path", func(s *apiSide) string { return s.http("GET", "/nothing", "") }},
	{"unknown service", func(s *apiSide) string { return s.http("GET", "/services/nothing", "") }},
	{"pprof", func(s *apiSide) string { return s.http("GET", "/debug/pprof/", "") }},
	{"a page in a browser", func(s *apiSide) string {
		req, _ := http.NewRequestWithContext(s.t.Context(), "GET", "http://unix/cam", nil)
		req.Header.Set("Origin", "http://evil.example")
		resp, err := s.raw.Do(req)
		if err != nil {
			return "no answer"
		}
		defer resp.Body.Close()
		return resp.Status
	}},
}

// permitted are the calls in which Ferry differs from gvproxy 0.8.9, what each of them says, and why.
var permitted = map[string]struct{ theirs, ours, why string }{
	"remote a name":             {`error: .*EOF`, `error: "localhost:80": "localhost" is no IPv4 address.*`, "gvproxy panics"},
	"remote outside":            {``, `error: 203.0.113.9 is no client.*`, "gvproxy takes it, and each connection fails"},
	"unix by ssh, key missing":  {``, `error: is the client the one that is meant\?.*`, "gvproxy reads the key when somebody connects, and does not look whom it meets"},
	"unix over a file":          {``, `error: .*the path exists and is not a socket.*`, "gvproxy removes the file"},
	"npipe":                     {`error: .*`, `error: npipe: named pipes are of Windows.*`, "says what to do"},
	"unexpose no JSON":          {`400 .*types.UnexposeRequest.*`, `400 .*gvproxy.UnexposeRequest.*`, "the name of a package"},
	"add a zone without a name": {`200 .*`, `400 .*a zone has no name.*`, "gvproxy has it answer for all names"},
	"tunnel to a name":          {`no answer`, `400 .*`, "gvproxy says OK and panics"},
	"a page in a browser":       {`200 OK`, `403 Forbidden`, "web pages must not command a gateway"},
}

// TestGvproxyClient makes the same calls of gvproxy and of Ferry, with the library that gvproxy's users have.
func TestGvproxyClient(t *testing.T) {
	t.Parallel()
	program := peerProgram(t, "GVPROXY", "gvproxy")
	var dirs [2]string
	for i := range dirs {
		dir, err := os.MkdirTemp("", "ferry-gvproxy-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		err = errors.Join(os.WriteFile(filepath.Join(dir, "file"), []byte("precious"), 0o644), os.Chown(dir, 65534, 65534), os.Chmod(dir, 0o755))
		if err != nil {
			t.Fatal(err)
		}
		dirs[i] = dir
	}
	socket := func(dir string) string { return filepath.Join(dir, "api.sock") }
	n := newUserGateway(t, "--profile", "gvproxy", "--gvproxy-api", "unix://"+socket(dirs[1]))
	theirs, err := n.lan.Start(program, "-listen", "unix://"+socket(dirs[0]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(theirs.Kill)
	until(t, patience, "gvproxy listens", func() bool {
		conn, err := net.Dial("unix", socket(dirs[0]))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	var sides [2]*apiSide
	for i, dir := range dirs {
		raw := overUnix(t, socket(dir))
		sides[i] = &apiSide{client.New(raw, "http://unix"), t, raw, dir}
	}
	for _, ns := range []interface{ Do(func() error) error }{n.lan, n.gw} {
		err := ns.Do(func() error {
			l, err := net.Listen("tcp4", "127.0.0.1:7999")
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = l.Close() })
			c, err := net.ListenPacket("udp4", "127.0.0.1:7999")
			if err == nil {
				t.Cleanup(func() { _ = c.Close() })
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, call := range apiCalls {
		want, got := call.do(sides[0]), call.do(sides[1])
		differs, ok := permitted[call.name]
		switch {
		case !ok && got != want:
			t.Errorf("%s:\n gvproxy %s\n ferry   %s", call.name, want, got)
		case ok && !matches(differs.theirs, want):
			t.Errorf("%s: gvproxy is not as it was any more (%s): %s", call.name, differs.why, want)
		case ok && !matches(differs.ours, got):
			t.Errorf("%s (%s): got %s", call.name, differs.why, got)
		}
	}
	for name := range permitted {
		if !slices.ContainsFunc(apiCalls, func(c struct {
			name string
			do   func(*apiSide) string
		}) bool {
			return c.name == name
		}) {
			t.Errorf("%q is permitted to differ and is not called", name)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dirs[1], "file")); string(b) != "precious" {
		t.Errorf("the file has %q, %v", b, err)
	}
	sameCounters(t, sides)
}

func matches(expression, text string) bool {
	return regexp.MustCompile("^(?s:" + expression + ")$").MatchString(text)
}

// sameCounters checks that what gvproxy counts has the same names here. Those of gVisor depend on its version: the innermost are not compared.
func sameCounters(t *testing.T, sides [2]*apiSide) {
	t.Helper()
	var all [2]map[string]any
	for i, s := range sides {
		resp, err := s.raw.Get("http://unix/stats")
		if err != nil {
			t.Fatal(err)
		}
		err = json.NewDecoder(resp.Body).Decode(&all[i])
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range all[0] {
		own, ok := all[1][name]
		_, group := value.(map[string]any)
		if _, ours := own.(map[string]any); !ok || ours != group {
			t.Errorf("/stats has no %s like gvproxy's", name)
		}
	}
}
