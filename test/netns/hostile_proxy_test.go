package netns

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ferry/test/lab"
)

// A service takes connections until the test ends.
type service struct {
	ns       *lab.Namespace
	listener net.Listener
	work     sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]bool
	closed bool
}

// serveTCP calls answer with each connection to a port, and closes it afterwards.
func serveTCP(t *testing.T, ns *lab.Namespace, port int, answer func(s *service, c net.Conn)) {
	t.Helper()
	s := &service{ns: ns, open: map[net.Conn]bool{}}
	err := ns.Do(func() (err error) {
		s.listener, err = net.Listen("tcp4", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	s.work.Go(func() { // ends with the listener
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.work.Go(func() { // ends with the connection, at the latest when the service is closed
				defer s.forget(c)
				if s.keep(c) {
					answer(s, c)
				}
			})
		}
	})
}

// keep notes a connection that close is to end. It returns false when that has been called.
func (s *service) keep(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c] = true
	return !s.closed
}

func (s *service) forget(c net.Conn) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	_ = c.Close()
}

func (s *service) close() {
	_ = s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.work.Wait()
}

// pipe connects a client to an address, and lets both talk until one has ended. first is what was read of the client.
func (s *service) pipe(client net.Conn, first io.Reader, addr string, ready func() error) {
	var server net.Conn
	err := s.ns.Do(func() (err error) {
		server, err = net.DialTimeout("tcp4", addr, patience)
		return err
	})
	if err != nil {
		return
	}
	defer s.forget(server)
	if !s.keep(server) || ready() != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	})
	_, _ = io.Copy(server, first)
	_ = server.Close()
	back.Wait()
}

func echo(_ *service, c net.Conn) { _, _ = io.Copy(c, c) }

// whoAmI says what the client's address looks like from here.
func whoAmI(_ *service, c net.Conn) { _, _ = io.WriteString(c, c.RemoteAddr().String()) }

// httpProxy takes CONNECT, of everybody or of user:password.
func httpProxy(user string) func(*service, net.Conn) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(user))
	return func(s *service, c net.Conn) {
		in := bufio.NewReader(c)
		r, err := http.ReadRequest(in)
		switch {
		case err != nil:
		case r.Method != http.MethodConnect:
			_, _ = io.WriteString(c, "HTTP/1.1 405 Method Not Allowed\r\n\r\n")
		case user != "" && r.Header.Get("Proxy-Authorization") != want:
			_, _ = io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"ferry\"\r\n\r\n")
		default:
			s.pipe(c, in, r.Host, func() error {
				_, err := io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
				return err
			})
		}
	}
}

// throughHTTP asks a proxy for a connection.
func throughHTTP(c net.Conn, user, addr string) (net.Conn, error) {
	auth := ""
	if user != "" {
		auth = "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user)) + "\r\n"
	}
	if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", addr, addr, auth); err != nil {
		return nil, err
	}
	in := bufio.NewReader(c)
	r, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, err
	}
	if r.StatusCode != http.StatusOK {
		return nil, errors.New(r.Status)
	}
	return c, nil
}

// SOCKS5 of RFC 1928, without authentication, for CONNECT to an IPv4 address or a name.
const (
	socksVersion, socksConnect  = 5, 1
	socksIPv4, socksName        = 1, 3
	socksGranted, socksRefused  = 0, 7
	socksMethods, socksNoMethod = 1, 0
)

func socksProxy(s *service, c net.Conn) {
	addr, err := socksRequest(c)
	if err != nil {
		_, _ = c.Write([]byte{socksVersion, socksRefused, 0, socksIPv4, 0, 0, 0, 0, 0, 0})
		return
	}
	s.pipe(c, c, addr, func() error {
		_, err := c.Write([]byte{socksVersion, socksGranted, 0, socksIPv4, 0, 0, 0, 0, 0, 0})
		return err
	})
}

func socksRequest(c net.Conn) (addr string, err error) {
	read := func(n int) []byte {
		b := make([]byte, n)
		if err == nil {
			_, err = io.ReadFull(c, b)
		}
		return b
	}
	hello := read(2)
	read(int(hello[1]))
	if err != nil || hello[0] != socksVersion {
		return "", errors.Join(err, errors.New("no SOCKS5"))
	}
	if _, err := c.Write([]byte{socksVersion, socksNoMethod}); err != nil {
		return "", err
	}
	head := read(4)
	if err != nil || head[1] != socksConnect {
		return "", errors.Join(err, errors.New("no CONNECT"))
	}
	var host string
	switch head[3] {
	case socksIPv4:
		host = net.IP(read(4)).String()
	case socksName:
		host = string(read(int(read(1)[0])))
	default:
		return "", errors.New("no address")
	}
	port := binary.BigEndian.Uint16(read(2))
	return fmt.Sprintf("%s:%d", host, port), err
}

// throughSOCKS asks a proxy for a connection.
func throughSOCKS(c net.Conn, addr string) (net.Conn, error) {
	to, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return nil, err
	}
	request := append([]byte{socksVersion, socksMethods, socksNoMethod, socksVersion, socksConnect, 0, socksIPv4}, to.IP.To4()...)
	if _, err := c.Write(binary.BigEndian.AppendUint16(request, uint16(to.Port))); err != nil {
		return nil, err
	}
	answer := make([]byte, 2+10)
	if _, err := io.ReadFull(c, answer); err != nil {
		return nil, err
	}
	if answer[3] != socksGranted {
		return nil, fmt.Errorf("the proxy refuses: %d", answer[3])
	}
	return c, nil
}

// serveUDP sends to each packet what answer makes of it, until the test ends.
func serveUDP(t *testing.T, ns *lab.Namespace, port int, answer func(packet []byte, from net.Addr) []byte) {
	t.Helper()
	var conn net.PacketConn
	err := ns.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	t.Cleanup(func() { _ = conn.Close(); work.Wait() })
	work.Go(func() {
		b := make([]byte, 2000)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if reply := answer(b[:n], from); reply != nil {
				_, _ = conn.WriteTo(reply, from)
			}
		}
	})
}

// answerTXT answers each question with a text; nil: none was asked.
func answerTXT(question []byte, _ net.Addr) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true},
		Questions: m.Questions,
		Answers: []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.TXTResource{TXT: []string{"text of " + strings.ToLower(q.Name.String())}},
		}},
	}
	b, err := reply.Pack()
	if err != nil {
		return nil
	}
	return b
}

// askTXT asks a name server for a name, of which nobody has asked before.
func askTXT(ns *lab.Namespace, server string, limit time.Duration) error {
	name := fmt.Sprintf("n%d.%s.", time.Now().UnixNano(), tunnelZone)
	question := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(time.Now().UnixNano()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET}},
	}
	b, err := question.Pack()
	if err != nil {
		return err
	}
	answer, err := askUDP(ns, server+":53", b, limit)
	if err != nil {
		return err
	}
	var m dnsmessage.Message
	if err := m.Unpack(answer); err != nil {
		return err
	}
	if len(m.Answers) != 1 {
		return fmt.Errorf("the name server says %s", m.RCode)
	}
	if txt, ok := m.Answers[0].Body.(*dnsmessage.TXTResource); !ok || txt.TXT[0] != "text of "+name {
		return fmt.Errorf("the name server says %v", m.Answers[0].Body)
	}
	return nil
}

// askUDP sends a packet, and returns what comes back.
func askUDP(ns *lab.Namespace, addr string, packet []byte, limit time.Duration) (answer []byte, err error) {
	var c net.Conn
	if err := ns.Do(func() (err error) { c, err = net.Dial("udp4", addr); return err }); err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	if _, err := c.Write(packet); err != nil {
		return nil, err
	}
	b := make([]byte, 2000)
	n, err := c.Read(b)
	return b[:n], err
}
