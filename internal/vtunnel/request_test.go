package vtunnel

import (
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
)

// The requests and replies of the original, as they were seen.
var golden = []struct {
	name, line string
	want       reply // of a server that accepts 127.0.0.1, where port 7001 listens
}{
	{"tcp", "VTUNNEL 127.0.0.1 7001 tcp", ready},
	{"udp", "VTUNNEL 127.0.0.1 7001 udp", ready},
	{"another protocol is tcp", "VTUNNEL 127.0.0.1 7001 xyz", ready},
	{"half a word is tcp", "VTUNNEL 127.0.0.1 7001 u", ready},
	{"port modulo 65536", "VTUNNEL 127.0.0.1 72537 tcp", ready},
	{"negative port", "VTUNNEL 127.0.0.1 -58535 tcp", ready},
	{"any white space", "\n VTUNNEL\t127.0.0.1\v 7001\f\r\n tcp", ready},
	{"a line end behind it", "VTUNNEL 127.0.0.1 7001 tcp\r\n", ready},
	{"a string of C", "VTUNNEL 127.0.0.1 7001 tcp\x00", ready},
	{"no space before the protocol", "VTUNNEL 127.0.0.1 7001tcp", ready},
	{"closed port", "VTUNNEL 127.0.0.1 1 tcp", notReached},
	{"no protocol", "VTUNNEL 127.0.0.1 7001", badRequest},
	{"no port", "VTUNNEL 127.0.0.1", badRequest},
	{"port of letters", "VTUNNEL 127.0.0.1 http tcp", badRequest},
	{"no auth string", " 127.0.0.1 7001 tcp", badRequest},
	{"auth string with a space", "my secret 127.0.0.1 7001 tcp", badAddress}, // secret, port 127
	{"wrong auth string", "BAD 127.0.0.1 7001 tcp", badAuth},
	{"name", "VTUNNEL nothost 7001 tcp", badAddress},
	{"IPv6", "VTUNNEL ::1 7001 tcp", badAddress},
	{"not accepted", "VTUNNEL 192.0.2.1 7001 tcp", badAddress},
	{"the address before the auth string", "BAD 192.0.2.1 7001 tcp", badAddress},
	{"leading zero", "VTUNNEL 127.0.0.01 7001 tcp", badAddress},
}

func TestConsumeRequest(t *testing.T) {
	for _, test := range []struct {
		b    string
		want request
		n    int
		p    progress
	}{
		{"", request{}, 0, partial},
		{"VTUNNEL", request{auth: "VTUNNEL"}, 0, partial},
		{"VTUNNEL 127.0.0.1 70", request{"VTUNNEL", "127.0.0.1", 70, ""}, 0, partial},
		{"VTUNNEL 127.0.0.1 -", request{"VTUNNEL", "127.0.0.1", 0, ""}, 0, partial},
		{"VTUNNEL 127.0.0.1 7001 ", request{"VTUNNEL", "127.0.0.1", 7001, ""}, 0, partial},
		{"VTUNNEL 127.0.0.1 7001 tc", request{"VTUNNEL", "127.0.0.1", 7001, "tc"}, 25, enough},
		{"VTUNNEL 127.0.0.1 7001 t ", request{"VTUNNEL", "127.0.0.1", 7001, "t"}, 24, whole},
		{"VTUNNEL 127.0.0.1 7001 tcpGET /", request{"VTUNNEL", "127.0.0.1", 7001, "tcp"}, 26, whole},
		{"VTUNNEL 127.0.0.1 7001 udp\nGET", request{"VTUNNEL", "127.0.0.1", 7001, "udp"}, 27, whole},
		{"VTUNNEL 127.0.0.1 7001 xyz 1", request{"VTUNNEL", "127.0.0.1", 7001, "xyz"}, 26, whole},
		{"V 1.2.3.4 x", request{"V", "1.2.3.4", 0, ""}, 0, broken},
		{"V 1.2.3.4 99999999999999999999 tcp", request{"V", "1.2.3.4", -1, "tcp"}, 34, whole},
	} {
		if r, n, p := consumeRequest([]byte(test.b)); r != test.want || n != test.n || p != test.p {
			t.Errorf("%q:\n got %+v, %d, %d\nwant %+v, %d, %d", test.b, r, n, p, test.want, test.n, test.p)
		}
	}
}

// sscanf is what the original does, as a regular expression says it.
var sscanf = regexp.MustCompile(`^[\t-\r ]*([^\t-\r ]+)[\t-\r ]+([^\t-\r ]+)[\t-\r ]+([+-]?[0-9]+)(?:[\t-\r ]+([^\t-\r ]+)|([^\t-\r 0-9][^\t-\r ]*))`)

func FuzzRequest(f *testing.F) {
	for _, g := range golden {
		f.Add([]byte(g.line))
	}
	f.Add(appendRequest(nil, request{"VTUNNEL", "127.0.0.1", 22, "tcp"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, p := consumeRequest(b)
		if n > len(b) {
			t.Fatalf("%d bytes of %d", n, len(b))
		}
		m := sscanf.FindSubmatch(b)
		if got, want := p == whole || p == enough, m != nil; got != want {
			t.Fatalf("%q: taken %v, by sscanf %v", b, got, want)
		}
		if m == nil {
			return
		}
		port, _ := strconv.ParseInt(string(m[3]), 10, 64)
		if r.auth != string(m[1]) || r.addr != string(m[2]) || r.port != int32(port) || r.udp() != strings.HasPrefix(string(m[4])+string(m[5]), "udp") {
			t.Fatalf("%q: got %+v, by sscanf %q", b, r, m[1:])
		}
		for i := range b { // in pieces
			if early, _, p := consumeRequest(b[:i]); p == whole && (early.auth != r.auth || early.addr != r.addr || early.port != r.port || early.udp() != r.udp()) {
				t.Fatalf("%q: %d bytes of it are another request: %+v", b, i, early)
			}
		}
		again, n, p := consumeRequest(appendRequest(nil, r))
		if again != r || p == partial || p == broken || n == 0 {
			t.Fatalf("%+v: written and read again %+v", r, again)
		}
	})
}

func TestReadReply(t *testing.T) {
	for _, test := range []struct {
		b    string
		want reply
		rest string
		err  error
	}{
		{"ready", ready, "", nil},
		{"readySSH-2.0-x", ready, "SSH-2.0-x", nil},
		{"error", notReached, "", nil},
		{"fail", badRequest, "", nil},
		{"addr", badAddress, "", nil},
		{"auth", badAuth, "", nil},
		{"", "", "", io.EOF},
		{"rea", "", "", io.ErrUnexpectedEOF},
		{"read", "", "", io.EOF},
		{"readX", "", "", nil},
		{"HTTP/1.1 400", "", "/1.1 400", nil}, // the original takes any four bytes for success
	} {
		for name, r := range map[string]io.Reader{"whole": strings.NewReader(test.b), "by bytes": iotest.OneByteReader(strings.NewReader(test.b))} {
			got, err := readReply(r)
			var none *replyError
			if got != test.want || (got == "") != errors.As(err, &none) || test.err != nil && !errors.Is(err, test.err) {
				t.Errorf("%q, %s: got %q, %v, want %q, %v", test.b, name, got, err, test.want, test.err)
			}
			if rest, _ := io.ReadAll(r); string(rest) != test.rest {
				t.Errorf("%q, %s: got %q left, want %q", test.b, name, rest, test.rest)
			}
		}
	}
}
