package main

import (
	"context"
	"fmt"

	"ferry/test/lab"
)

// A subject is what is measured beside the others; a column of the table.
type subject int

const (
	bare subject = iota
	ours
	wireguardGo
	openvpnUDP
	openvpnTCP
	iodine
	gvproxy
	sshForward
	former   // Ferry before it had sessions
	subjects // how many
)

var subjectNames = [subjects]string{"bare", "ferry", "wireguard-go", "openvpn udp", "openvpn tcp", "iodine", "gvproxy", "ssh -L", "before sessions"}

// A path leads from c1 to an address through one of the subjects.
type path struct {
	subject
	addr string
}

// paths are ways from c1 to the gateway.
type paths struct {
	all []path
	f   *ferry
	wg  *tunnel
}

// openPaths starts Ferry and, if it is installed, wireguard-go. Both run all the time: idle they take
// no time from what is measured.
func (b *bench) openPaths(start func(...*lab.Namespace) (*ferry, error)) (_ *paths, err error) {
	p := &paths{all: []path{{bare, bareGateway}, {ours, ferryAddr}}}
	if p.f, err = start(b.net.c1); err != nil {
		return nil, err
	}
	if b.wireguard == "" {
		return p, nil
	}
	if p.wg, err = b.startWireguard(); err != nil {
		p.f.Close()
		return nil, err
	}
	p.all = append(p.all, path{wireguardGo, wireguardAddr})
	return p, nil
}

// Close stops all.
func (p *paths) Close() {
	p.f.Close()
	if p.wg != nil {
		p.wg.Close()
	}
}

// peerTries is how often a flow of a peer may break before the row ends: gvproxy's do at times. One of Ferry may not.
const peerTries = 3

// inTurn calls measure for each path in each run. What measure returns is added to the lines, one
// value to each.
func (b *bench) inTurn(ctx context.Context, over []path, measure func(context.Context, path) ([]float64, error), lines ...*line) error {
	for run := range b.runs {
		for _, p := range over {
			got, err := measure(ctx, p)
			for try := 1; err != nil && p.subject != ours && try < peerTries && ctx.Err() == nil; try++ {
				progress("  run %d/%d  %-12s  once more: %v", run+1, b.runs, subjectNames[p.subject], err)
				got, err = measure(ctx, p)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				return fmt.Errorf("%s: %w", subjectNames[p.subject], err)
			}
			for i, l := range lines {
				l.got[p.subject] = append(l.got[p.subject], got[i])
				progress("  run %d/%d  %-12s  %s: %s", run+1, b.runs, subjectNames[p.subject], l.what, figure(got[i]))
			}
		}
	}
	return nil
}
