package peerstore

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"time"

	"ferry/internal/durable"
	"ferry/internal/identity"
)

// A Peer is a device that may join.
type Peer struct {
	Name     string          `json:"name"`
	Key      identity.Public `json:"key"`
	Addrs    []netip.Addr    `json:"addresses"`          // one connection at a time for each
	Routes   []netip.Prefix  `json:"routes,omitempty"`   // networks behind it
	Disabled bool            `json:"disabled,omitempty"` // may not join for now
	Added    time.Time       `json:"added"`
}

// An Invitation lets one device become a peer.
type Invitation struct {
	Hash    Hash            `json:"hash"`
	Name    string          `json:"name"`
	Addrs   []netip.Addr    `json:"addresses,omitempty"` // empty: one is chosen when it is redeemed
	Routes  []netip.Prefix  `json:"routes,omitempty"`
	Expires time.Time       `json:"expires"`
	UsedBy  identity.Public `json:"used_by,omitzero"`
}

// A Hash is SHA-256 of a secret.
type Hash [32]byte

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h[:])), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) != 2*len(h) {
		return errors.New("a hash has 64 hexadecimal digits")
	}
	_, err := hex.Decode(h[:], b)
	return err
}

const fileName = "peers.json"

// Prefix is that of the names of all files that a Store replaces.
const Prefix = fileName

func filePath(dir *durable.Dir) string { return filepath.Join(dir.Name(), fileName) }

// version of the file's format.
const version = 1

// ErrVersion is returned for a file that a later version of Ferry wrote.
var ErrVersion = errors.New("written by a later version of Ferry")

type file struct {
	Version     int          `json:"version"`
	Peers       []Peer       `json:"peers"`
	Invitations []Invitation `json:"invitations"`
}

// readFile returns what the file says; of one that is not there, nothing.
func readFile(dir *durable.Dir) (file, error) {
	b, err := dir.ReadFile(fileName)
	if errors.Is(err, fs.ErrNotExist) {
		return file{}, nil
	}
	if err != nil {
		return file{}, fmt.Errorf("peers: %w", err)
	}
	f, err := parse(b)
	if err != nil {
		return file{}, fmt.Errorf("peers: %s: %w", filePath(dir), err)
	}
	return f, nil
}

func parse(b []byte) (f file, err error) {
	var format struct{ Version int }
	if err := json.Unmarshal(b, &format); err != nil {
		return f, err
	}
	switch {
	case format.Version > version:
		return f, fmt.Errorf("format %d: %w", format.Version, ErrVersion)
	case format.Version < 1:
		return f, errors.New("no format is named")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err = d.Decode(&f)
	return f, err
}

func writeFile(dir *durable.Dir, f file) error {
	f.Version = version
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	if err := dir.Replace(fileName, append(b, '\n')); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}
