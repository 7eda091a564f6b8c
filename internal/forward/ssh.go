package forward

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
)

// The forwards of a client are written as ssh(1) has them behind -L and -R, with a protocol before them where that is not tcp:
//
//	-L [tcp:|udp:][bind:]port:host:hostport    -L /path:host:hostport
//	-R [tcp:|udp:][bind:]port:host:hostport    -R [bind:]port:/path
//
// The rules are:
//
//   - Without bind -L listens on 127.0.0.1; an empty one, or *, is all addresses of this device. -R listens on its address in the tunnel, whichever that
//     is: bind is nothing there, or *.
//   - Port 0 is any, 8080+ the next that is free, 8080+1000 the next that is in strides of 1000.
//   - What has a '/' at its beginning is the path of a unix socket. In the tunnel there are addresses, and no paths.
//   - IPv6 addresses stand in brackets. A '\' takes its meaning from what follows it.
//   - Behind a '?' stands who may come, and whether a header says who has, as with an Entrance: ?from=10.0.3.4&proxy=2. There is no source to choose.

// errGrammar says how a forward is written.
var errGrammar = errors.New("write [bind:]port:host:hostport, with udp: before it if that is meant, or the path of a unix socket on this device's side")

// ParseLocal reads what stands behind -L: who connects to this device goes on in the tunnel.
func ParseLocal(text string) (Spec, error) {
	s, bind, err := parseSSH(text)
	switch {
	case err != nil:
	case s.To.Path != "":
		err = errors.New("in the tunnel there are no unix sockets: write host:hostport behind the port")
	case s.To.Name == "localhost" || s.To.Addr.IsLoopback():
		err = fmt.Errorf("%s would be this device itself: write an address in the tunnel, as that of the gateway", s.To)
	case s.From.Path != "" || bind == "*":
	case bind == "localhost":
		s.From.Host = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	default:
		s.From.Host, err = netip.ParseAddr(bind)
		if err != nil || s.From.Host.Zone() != "" {
			err = fmt.Errorf("%q is no address of this device: write it as 127.0.0.1 or [::1]; * stands for all", bind)
		}
	}
	return named(text, s, err)
}

// ParseRemote reads what stands behind -R: who connects to this device's address in the tunnel goes on where the device says.
func ParseRemote(text string) (Spec, error) {
	s, bind, err := parseSSH(text)
	switch {
	case err != nil:
	case s.From.Path != "":
		err = errors.New("in the tunnel there are no unix sockets: write a port to listen on")
	case bind != "*" && bind != "localhost": // which is what stands for no bind
		err = fmt.Errorf("%q: the address in the tunnel is what the gateway gives: leave it out, or write *", bind)
	}
	return named(text, s, err)
}

func named(text string, s Spec, err error) (Spec, error) {
	if err != nil {
		return Spec{}, fmt.Errorf("forward %q: %w", text, err)
	}
	return s, nil
}

// parseSSH reads a forward. bind is localhost where none was written, and * for an empty one.
func parseSSH(text string) (s Spec, bind string, err error) {
	fields, options, err := splitSSH(text)
	if err != nil {
		return s, "", err
	}
	s.From.Scheme = "tcp"
	if fields[0] == "tcp" || fields[0] == "udp" {
		s.From.Scheme, fields = fields[0], fields[1:]
	}
	near, err := s.To.parseSSH(fields)
	if err != nil {
		return s, "", err
	}
	bind = "localhost"
	switch {
	case len(near) == 1 && strings.HasPrefix(near[0], "/"):
		s.From.Path = near[0]
	case len(near) == 1:
		err = s.From.parsePort(near[0])
	case len(near) == 2:
		if bind = near[0]; bind == "" || bind == "0.0.0.0" || bind == "::" {
			bind = "*"
		}
		err = s.From.parsePort(near[1])
	default:
		err = errGrammar
	}
	switch {
	case err != nil:
		return s, bind, err
	case s.From.Scheme == "udp" && s.From.Path+s.To.Path != "":
		return s, bind, errors.New("unix sockets are for tcp")
	case s.From.Path != "":
		s.From.Scheme = "unix"
	}
	if err = s.From.parseQuery(options); err == nil && s.From.Source.IsValid() {
		err = errors.New("a device has one address in the tunnel: leave out source")
	}
	return s, bind, errors.Join(checkPath(s.From.Path), checkPath(s.To.Path), err)
}

func checkPath(path string) error {
	switch {
	case path == "":
		return nil
	case filepath.Clean(path) != path || path == "/":
		return fmt.Errorf("%q is no path of a socket: write it as /run/x.sock", path)
	case len(path) > maxPath:
		return fmt.Errorf("the path is longer than %d bytes, which is all that a socket can have", maxPath)
	}
	return nil
}

// parseSSH reads a target from the end of fields, and returns what is before it.
func (t *Target) parseSSH(fields []string) (before []string, err error) {
	n := len(fields)
	switch {
	case n >= 2 && strings.HasPrefix(fields[n-1], "/"):
		t.Path = fields[n-1]
		return fields[:n-1], nil
	case n < 3:
		return nil, errGrammar
	}
	host := fields[n-2]
	if t.Port, err = parsePort(fields[n-1]); err != nil {
		return nil, err
	}
	if t.Port == 0 {
		return nil, errors.New("port 0 to connect to is none")
	}
	if t.Addr, err = netip.ParseAddr(host); err == nil {
		if t.Addr.Zone() != "" || t.Addr.IsUnspecified() || t.Addr.IsMulticast() {
			return nil, fmt.Errorf("%q is no address to connect to", host)
		}
		return fields[:n-2], nil
	}
	if host == "" || len(host) > maxHost || strings.ContainsAny(host, "/?%:[]\x00 \t\n\r") {
		return nil, fmt.Errorf("%q is neither an address nor a name: %w", host, errGrammar)
	}
	t.Name = host
	return fields[:n-2], nil
}

// maxHost bounds the name of a host, bytes (RFC 1035, section 2.3.4).
const maxHost = 253

// splitSSH cuts a text at its colons that are not in brackets, up to a '?'. A field has neither the brackets nor a backslash that takes a meaning away.
func splitSSH(text string) (fields []string, options string, err error) {
	if strings.ContainsAny(text, "\x00\n\r") {
		return nil, "", errGrammar
	}
	var field strings.Builder
	inside := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '?' && !inside:
			options = text[i+1:]
			i = len(text)
		case c == '\\' && i+1 < len(text):
			i++
			field.WriteByte(text[i])
		case c == '[' && !inside && field.Len() == 0:
			inside = true
		case c == ']' && inside && (i+1 == len(text) || text[i+1] == ':' || text[i+1] == '?'):
			inside = false
		case c == ':' && !inside:
			fields = append(fields, field.String())
			field.Reset()
		default:
			field.WriteByte(c)
		}
	}
	if inside {
		return nil, "", errors.New("a ']' is missing")
	}
	return append(fields, field.String()), options, nil
}
