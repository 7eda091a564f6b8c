package vtunnel

import (
	"fmt"
	"os"

	"ferry/internal/carrier"
	"ferry/internal/carrier/vsock"
)

// Context IDs that have a meaning (vsock(7)).
const (
	cidHypervisor = 0
	cidLocal      = 1
	cidHost       = 2
)

// A Machine is what this one is to others that it shares a host with.
type Machine struct {
	CID   uint32
	Vhost bool // the module by which a host of QEMU has guests is there
}

// ThisMachine asks the kernel.
func ThisMachine() (Machine, error) {
	cid, err := vsock.LocalCID()
	if err != nil {
		return Machine{}, err
	}
	_, err = os.Stat("/sys/module/vhost_vsock")
	return Machine{cid, err == nil}, nil
}

// Host tells whether this machine has guests, and nothing above it.
func (m Machine) Host() bool {
	return m.CID == cidHost || m.Vhost && (m.CID == cidHypervisor || m.CID == carrier.AnyCID)
}

// A textError is what the original prints about an option.
type textError string

func (e textError) Error() string { return string(e) }

// What the original says of destinations.
const (
	errGuestSetsCID = textError("guest cannot set destination cid")
	errCID1         = textError("cannot set dst_cid to reserved value 1")
	errCID0         = textError("host cannot connect to reserved value 0")
	errNoMachine    = textError("could not determine destination machine")
)

// Server returns where the server is: of a guest its host, of a host the machine with a context ID. The original goes from a
// guest with vhost_vsock to context ID 0, where nobody is; such a guest has guests of its own, and may name one of those.
func (m Machine) Server(cid *uint32) (carrier.Endpoint, error) {
	e := carrier.Endpoint{Scheme: "vsock", Port: DefaultPort, CID: cidHost}
	switch {
	case cid == nil && m.Host():
		return e, errNoMachine
	case cid == nil:
		return e, nil
	case *cid == cidLocal:
		return e, errCID1
	case !m.Host() && !m.Vhost:
		return e, fmt.Errorf("%w\nvtunnel: my cid: %d", errGuestSetsCID, m.CID)
	case *cid == cidHypervisor:
		return e, errCID0
	}
	e.CID = *cid
	return e, nil
}
