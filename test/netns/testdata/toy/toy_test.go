package toy

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/iotest"

	"ferry/internal/carrier"
	"ferry/internal/carrier/carriertest"
)

func TestLink(t *testing.T) {
	carriertest.TestLink(t, func(t testing.TB) (client, gateway carrier.Link) {
		e := carrier.Endpoint{Scheme: "toy", Host: "127.0.0.1"}
		l, err := Listen(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		e.Port = uint32(l.Addr().(*net.TCPAddr).Port)
		a, err := Dial(t.Context(), e, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return carrier.NewStream(a), carrier.NewStream(b)
	})
}

// script is a connection whose other end says what a test wants.
type script struct {
	net.Conn
	io.Reader
}

func (s script) Read(b []byte) (int, error) { return s.Reader.Read(b) }

// What a stranger sends is read or is an error, and the same in whatever parts it comes.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{"", "\n", "aGVsbG8=\n", "aGVsbG8=\naGVsbG8=\naGVs", "=\n", "no base64\n"} {
		f.Add([]byte(seed))
	}
	f.Add(append(bytes.Repeat([]byte("AAAA"), maxPart/3), '\n'))
	f.Add(bytes.Repeat([]byte("A"), maxLine+1))
	f.Fuzz(func(t *testing.T, b []byte) {
		whole, err := io.ReadAll(newConn(script{Reader: bytes.NewReader(b)}))
		parts, other := io.ReadAll(newConn(script{Reader: iotest.OneByteReader(bytes.NewReader(b))}))
		if !bytes.Equal(whole, parts) || (err == nil) != (other == nil) {
			t.Errorf("got %x, %v; in parts %x, %v", whole, err, parts, other)
		}
	})
}
