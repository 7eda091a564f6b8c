package forward

import (
	"errors"
	"fmt"
	"iter"
	"syscall"
)

// maxTries is how many ports are tried for one that is free.
const maxTries = 4096

// shifts is how many neighbours Penguin tries for each port when it goes in strides.
const shifts = 66

// candidates are the ports to try, in their order: with steps of 1 those that follow, as vtunnel has it, and with larger ones Penguin's: the port in
// strides, then each of its neighbours in strides.
func candidates(port uint16, step int) iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		switch step {
		case 0:
			yield(port)
			return
		case 1:
			for p, n := int(port), 0; p <= 65535 && n < maxTries; p, n = p+1, n+1 {
				if !yield(uint16(p)) {
					return
				}
			}
			return
		}
		n := 0
		for shift := range shifts {
			for p := int(port) + shift; p <= 65535; p += step {
				if n++; n > maxTries || !yield(uint16(p)) {
					return
				}
			}
		}
	}
}

// listenAt calls listen with ports until one is free. prefer comes first, unless it is 0.
func (e Entrance) listenAt(prefer uint16, listen func(Entrance) error) error {
	var last error
	try := func(port uint16) (done bool) {
		last = listen(e.at(port))
		return !isTaken(last) && !(e.Step > 0 && isForbidden(last))
	}
	if prefer != 0 && prefer != e.Port && try(prefer) && last == nil {
		return nil
	}
	for port := range candidates(e.Port, e.Step) {
		if try(port) {
			break
		}
	}
	return explain(e, last)
}

func isTaken(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }
func isForbidden(err error) bool {
	return errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM)
}

// explain says what an operator can do.
func explain(e Entrance, err error) error {
	switch {
	case err == nil:
		return nil
	case e.Scheme == "unix" && isForbidden(err):
		return fmt.Errorf("forward %s: no socket may be made there: those of a gateway are in its state directory, in /run where it runs as root, or in a directory that its configuration names: %w", e.bare(), err)
	case e.Scheme == "unix":
		return fmt.Errorf("forward %s: %w", e.bare(), err)
	case isTaken(err) && e.Step > 0:
		return fmt.Errorf("forward %s: no port from there on is free: %w", e.bare(), err)
	case isTaken(err):
		return fmt.Errorf("forward %s: the port is in use ('%s' as root says by whom): take another, or write %s for the next that is free: %w", e.bare(), e.show(), e.next(), err)
	case isForbidden(err):
		return fmt.Errorf("forward %s: a port below 1024 takes root or CAP_NET_BIND_SERVICE: take one from 1024 on (sysctl net.ipv4.ip_unprivileged_port_start): %w", e.bare(), err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("forward %s: %s is no address of this host ('ip address' lists them): %w", e.bare(), e.Host, err)
	}
	return fmt.Errorf("forward %s: %w", e.bare(), err)
}

// show is the command that says who has a port.
func (e Entrance) show() string {
	kind := map[string]string{"tcp": "t", "udp": "u"}[e.Scheme]
	return fmt.Sprintf("ss -%slnp sport = :%d", kind, e.Port)
}

func (e Entrance) next() string {
	e.Step = 1
	return e.bare()
}
