package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"ferry/internal/carrier"
)

// errNotTried is for ways that are left out.
var errNotTried = errors.New("not tried: by another way the gateway does not take this device's key")

// whyNot says what an error means to who wants to know what gets through: in a few words, for the way is named beside it.
func whyNot(e carrier.Endpoint, plain bool, err error) string {
	text := strings.TrimPrefix(oneLine(err), fmt.Sprintf("dial %s: ", e))
	switch {
	case errors.Is(err, context.Canceled):
		return "not finished: interrupted"
	case errors.As(err, new(*net.DNSError)), strings.HasPrefix(text, "the proxy "): // both say what to do
		return text
	case isTimeout(err):
		return noAnswer(e, err)
	case err == io.EOF && plain:
		return errNoAnswer.Error()
	case err == io.EOF:
		return "the gateway closed the connection without an answer: 'vpnsrv status' there counts why"
	}
	for _, r := range probeReasons {
		if errors.Is(err, r.err) {
			return r.text
		}
	}
	return text
}

// probeReasons are errors of the network of which the error's own text does not tell enough.
var probeReasons = []struct {
	err  error
	text string
}{
	{syscall.ECONNREFUSED, "refused: nothing listens there, or a firewall refuses it"},
	{syscall.ECONNRESET, "the connection was reset: something on the way does not let it pass, or the gateway takes none from this address for now"},
	{syscall.ENETUNREACH, "there is no route to it: is this device online?"},
	{syscall.EHOSTUNREACH, "the host is down, or a router or firewall refuses it"},
	{syscall.EACCES, "not allowed: by a firewall, or by the rights of this user"},
	{syscall.EPERM, "not allowed: by a firewall of this device, or by the rights of this user"},
	{syscall.ENOENT, "there is no such socket: is vpnsrv running?"},
}

func isTimeout(err error) bool {
	var late net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &late) && late.Timeout()
}

// noAnswer tells a port that nothing comes back from apart from a handshake that does not come to its end.
func noAnswer(e carrier.Endpoint, err error) string {
	var op *net.OpError
	switch {
	case e.Scheme == "icmp":
		return fmt.Sprintf("no answer within %s: pings may be blocked, or vpnsrv does not listen for them", probeDial)
	case carrier.ByDatagrams(e.Scheme):
		return fmt.Sprintf("no answer within %s: UDP may be blocked, or vpnsrv does not listen there", probeDial)
	case errors.As(err, &op) && op.Op == "dial":
		return fmt.Sprintf("no answer within %s: the port is filtered, or the host is down", probeDial)
	}
	return fmt.Sprintf("connected, but no handshake within %s: something on the way holds it up, or loses large packets", probeDial)
}

// oneLine is the text of an error: those that were joined have a line each.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
