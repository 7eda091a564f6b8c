package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"ferry/internal/carrier"
	"ferry/internal/durable"
	"ferry/internal/identity"
	"ferry/internal/proto"
)

// Files in the state directory of a device.
const (
	keyName       = "device.key"
	enrolmentName = "gateway.json"
)

// enrolmentVersion is that of the format of the file.
const enrolmentVersion = 1

// An Enrolment is what a device knows of its gateway since it has joined.
type Enrolment struct {
	Version int          `json:"version"`
	Name    string       `json:"name"` // of the device, there
	Servers []string     `json:"servers"`
	Gateway identity.Pin `json:"gateway"`
	Next    identity.Pin `json:"next_gateway,omitzero"` // of the key that the gateway has announced
}

// encode is the form in the file.
func (e Enrolment) encode() ([]byte, error) {
	b, err := json.MarshalIndent(e, "", "  ")
	return append(b, '\n'), err
}

// EnrolmentFile is where a device keeps what it knows of its gateway.
func EnrolmentFile(stateDir string) string { return filepath.Join(stateDir, enrolmentName) }

// files are opened and replaced by who may.
type files interface {
	Open(path string) (*os.File, error)
	Replace(path string, b []byte) error
}

// learn writes down the pins of a gateway that has joined keys to replace: of the key that it has shown, and of
// the next one, which may be none.
func learn(host files, path string, gateway, next identity.Pin) error {
	f, err := host.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	e, err := readEnrolment(f)
	if err != nil {
		return err
	}
	if gateway != e.Gateway && gateway != e.Next {
		return fmt.Errorf("%s: this device has joined another gateway meanwhile: start vpncli anew", path)
	}
	e.Gateway, e.Next = gateway, next
	b, err := e.encode()
	if err != nil {
		return err
	}
	return host.Replace(path, b)
}

// LoadEnrolment reads what Join wrote; the error is fs.ErrNotExist for a device that has not joined.
func LoadEnrolment(stateDir string) (Enrolment, error) {
	f, err := os.Open(EnrolmentFile(stateDir))
	if err != nil {
		return Enrolment{}, fmt.Errorf("what this device knows of its gateway: %w", err)
	}
	defer f.Close()
	return readEnrolment(f)
}

// maxEnrolment is longer than any file that was written by Join.
const maxEnrolment = 64 << 10

func readEnrolment(f *os.File) (Enrolment, error) {
	b, err := io.ReadAll(io.LimitReader(f, maxEnrolment))
	if err != nil {
		return Enrolment{}, fmt.Errorf("what this device knows of its gateway: %w", err)
	}
	e, err := parseEnrolment(b)
	if err != nil {
		return e, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return e, nil
}

// parseEnrolment looks at the version first: a later one may mean something else by every other field.
func parseEnrolment(b []byte) (e Enrolment, err error) {
	var format struct{ Version int }
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	switch err = json.Unmarshal(b, &format); {
	case err != nil:
	case format.Version > enrolmentVersion:
		return e, errors.New("written by a later version of Ferry: install that one")
	case format.Version < 1:
		err = errors.New("no format is named")
	default:
		if err = d.Decode(&e); err == nil && (len(e.Servers) == 0 || e.Gateway == identity.Pin{}) {
			err = errors.New("it names no gateway")
		}
	}
	if err != nil {
		return e, fmt.Errorf("%w: join again, with a new invitation", err)
	}
	return e, nil
}

// HasKey reports whether this device has a key.
func HasKey(stateDir string) bool {
	_, err := os.Lstat(filepath.Join(stateDir, keyName))
	return !errors.Is(err, fs.ErrNotExist)
}

// DeviceKey returns the key of this device, which it makes if there is none.
func DeviceKey(stateDir string) (identity.Key, error) {
	path := filepath.Join(stateDir, keyName)
	k, err := identity.LoadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := durable.MakeDir(stateDir); err != nil {
		return k, fmt.Errorf("state directory: %w", err)
	}
	k = identity.NewKey()
	return k, k.Save(path)
}

// Join redeems an invitation: the gateway knows the key of this device from then on, and the device the
// gateway. What it has learned is on disk when it returns. o may be nil.
func Join(ctx context.Context, invitation identity.Invitation, stateDir string, o carrier.Opener) (Enrolment, proto.JoinedMessage, error) {
	var e Enrolment
	key, err := DeviceKey(stateDir)
	if err != nil {
		return e, proto.JoinedMessage{}, err
	}
	j, err := redeem(ctx, invitation, key, o)
	if err != nil {
		return e, j, err
	}
	e = Enrolment{Version: enrolmentVersion, Name: j.Name, Servers: invitation.Servers, Gateway: invitation.Gateway}
	b, err := e.encode()
	if err == nil {
		err = durable.Replace(EnrolmentFile(stateDir), b)
	}
	if err != nil {
		return e, j, fmt.Errorf("the gateway knows this device now, but that can not be stored: run the same command again: %w", err)
	}
	return e, j, nil
}

// redeem shows the secret to the first server that is the gateway.
func redeem(ctx context.Context, i identity.Invitation, key identity.Key, o carrier.Opener) (j proto.JoinedMessage, err error) {
	servers, err := endpoints(i.Servers, 0)
	if err != nil {
		return j, err
	}
	reach, keys := reaching(o), &keyring{key: key, protocol: identity.Join, pins: []identity.Pin{i.Gateway}}
	var all []error
	for _, server := range servers {
		s, err := reach(ctx, server, keys)
		if err == nil {
			j, err = showSecret(ctx, s, i.Secret)
		}
		if err == nil || errors.As(err, new(*byeError)) {
			return j, err
		}
		all = append(all, fmt.Errorf("%s: %w", server, err))
	}
	return j, errors.Join(all...)
}

// showSecret sends a join frame, waits for the answer, and closes the connection.
func showSecret(ctx context.Context, s carrier.Link, secret proto.Secret) (j proto.JoinedMessage, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	defer s.Close()
	defer s.Release()
	if err := s.Write(proto.AppendJoin(nil, secret), nil); err != nil {
		return j, err
	}
	f := proto.Framer{FromServer: true, Extended: true}
	for {
		buf, start, end, err := s.Fill()
		if err != nil {
			return j, err
		}
		kind, n, err := f.Next(buf[start:end])
		b := buf[start : start+n]
		switch {
		case err != nil:
			return j, err
		case n == 0:
		case kind == proto.KindJoined:
			return proto.ParseJoined(b)
		case kind == proto.KindGoodbye:
			g, err := proto.ParseGoodbye(b)
			if err != nil {
				return j, err
			}
			return j, &byeError{g}
		default:
			return j, proto.ErrFrame
		}
	}
}
