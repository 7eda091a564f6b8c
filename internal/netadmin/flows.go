package netadmin

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"ferry/internal/flowlist"
	"ferry/internal/hostnet"
)

// tracked is what connection tracking knows.
type tracked struct {
	Flows []flowlist.Flow `json:"flows"`
	Total int             `json:"total"`
}

// flows answers with the connections of some clients of a gateway; text: their addresses, and none for all of them.
func (a *admin) flows(text string) (*tracked, error) {
	if a.rules.Policy != nil {
		return nil, errors.New("a device has no clients")
	}
	var clients []netip.Addr
	for field := range strings.FieldsSeq(text) {
		c, err := netip.ParseAddr(field)
		if err != nil {
			return nil, fmt.Errorf("%q is no address of a client", field)
		}
		clients = append(clients, c)
	}
	all, total, err := hostnet.Flows(a.leadsTo, clients)
	return &tracked{all, total}, err
}

// Flows returns what the kernel's connection tracking knows of some clients, flowlist.Max at most, and how many there are; none: of all clients.
func (c *Client) Flows(clients []netip.Addr) (all []flowlist.Flow, total int, err error) {
	texts := make([]string, len(clients))
	for i, a := range clients {
		texts[i] = a.String()
	}
	r, err := c.ask(question{Op: opFlows, Arg: strings.Join(texts, " ")})
	if err != nil || r.Tracked == nil {
		return nil, 0, err
	}
	return r.Tracked.Flows, r.Tracked.Total, nil
}
