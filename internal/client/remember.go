package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/failover"
)

// waysName is the file in the state directory of a device with what it has learned of the ways to its gateway.
const waysName = "ways.json"

// WaysFile is where a device keeps what it has learned of the ways to its gateway.
func WaysFile(stateDir string) string { return filepath.Join(stateDir, waysName) }

// waysVersion is that of the format of the file.
const waysVersion = 1

// A memory is what is in the file. It is worth nothing but time, and the ways where the one that the device was told is closed.
type memory struct {
	Version int             `json:"version"`
	Found   []string        `json:"found"`  // URLs that the gateway has said that it has
	Worked  failover.Memory `json:"worked"` // on which network

	Hosts map[string][]netip.Addr `json:"hosts,omitempty"` // where those with names were
}

const (
	// maxWaysFile is longer than any file that was written here.
	maxWaysFile = 64 << 10
	// rewriteAfter is how old what is on disk may become while nothing changes: the flash of small devices wears out.
	rewriteAfter = time.Hour
)

// loadMemory reads a file, which need not be there.
func loadMemory(host files, path string) (m memory, err error) {
	f, err := host.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxWaysFile))
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err == nil && m.Version != waysVersion {
		err = fmt.Errorf("version %d is not known", m.Version)
	}
	if err != nil {
		return memory{}, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// recall returns what has worked, and finds the ways again that were found before, where the gateway still is.
func (r *roamer) recall() failover.Memory {
	if r.c.Ways == "" {
		return nil
	}
	m, err := loadMemory(r.host, r.c.Ways)
	if err != nil {
		r.log.Warn("what was learned of the ways to the gateway is lost, and is learned anew", "err", err)
	}
	var found []carrier.Endpoint
	for _, url := range m.Found {
		if e, err := carrier.ParseDial(url, 0); err == nil && r.c.Found {
			found = append(found, e)
		}
	}
	there := func(e carrier.Endpoint) bool {
		return slices.ContainsFunc(r.servers, func(s carrier.Endpoint) bool { return s.Host == e.Host })
	}
	for _, e := range found { // a zone that a resolver finds is the gateway's as long as the same one at its host is
		if there(e) || e.Host == "" && slices.ContainsFunc(found, func(o carrier.Endpoint) bool { return o.Path == e.Path && there(o) }) {
			r.learned = append(r.learned, e)
		}
	}
	for _, e := range slices.Concat(r.servers, r.learned) {
		if at := m.Hosts[e.Host]; len(at) > 0 {
			r.found[e.Host] = at[:min(len(at), maxKnown)]
		}
	}
	r.kept = m
	return m.Worked
}

// hosts returns where the hosts are that have names.
func (r *roamer) hosts() map[string][]netip.Addr {
	all := map[string][]netip.Addr{}
	for host, at := range r.found {
		if _, err := netip.ParseAddr(host); err != nil && host != "" && len(at) > 0 {
			all[host] = at
		}
	}
	return all
}

// moved tells whether a host is somewhere now that was not known.
func moved(now, old map[string][]netip.Addr) bool {
	for host, at := range now {
		if !slices.Contains(old[host], at[0]) {
			return true
		}
	}
	return false
}

// remember writes down what was learned, if that says more than what is there.
func (r *roamer) remember(now time.Time) {
	if r.c.Ways == "" {
		return
	}
	m := memory{Version: waysVersion, Worked: r.m.Memory(now), Hosts: r.hosts()}
	for _, e := range r.learned {
		m.Found = append(m.Found, e.String())
	}
	if slices.Equal(m.Found, r.kept.Found) && !newer(m.Worked, r.kept.Worked) && !moved(m.Hosts, r.kept.Hosts) {
		return
	}
	r.kept = m
	b, err := json.MarshalIndent(m, "", "  ")
	if err == nil {
		err = r.host.Replace(r.c.Ways, append(b, '\n'))
	}
	if err != nil {
		r.log.Warn("what was learned of the ways to the gateway can not be stored: the next start learns it anew", "err", err)
	}
}

// newer tells whether m is worth to be written in the place of old: the first of each was the last one that worked.
func newer(m, old failover.Memory) bool {
	switch {
	case len(m) == 0:
		return false
	case len(old) == 0:
		return true
	}
	return m[0].Network != old[0].Network || m[0].Way != old[0].Way || m[0].At.Sub(old[0].At) > rewriteAfter
}
