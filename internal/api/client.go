package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"syscall"
)

// A Client speaks to the gateway that keeps its state in a directory.
type Client struct {
	path string
	http http.Client
}

// NewClient returns a client for the gateway with a state directory.
func NewClient(stateDir string) *Client {
	c := &Client{path: filepath.Join(stateDir, SocketName)}
	c.http.Timeout = timeout
	c.http.Transport = Transport(stateDir)
	return c
}

// Transport carries requests to the gateway that keeps its state in a directory. They have to name Host.
func Transport(stateDir string) *http.Transport {
	path := filepath.Join(stateDir, SocketName)
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}
}

// Peers returns all devices and invitations.
func (c *Client) Peers(ctx context.Context) (p Peers, err error) {
	return p, c.call(ctx, http.MethodGet, "/v1/peers", nil, &p)
}

// AddPeer adds a device.
func (c *Client) AddPeer(ctx context.Context, p Peer) (added Peer, err error) {
	return added, c.call(ctx, http.MethodPost, "/v1/peers", p, &added)
}

// RemovePeer removes a device.
func (c *Client) RemovePeer(ctx context.Context, name string) (p Peer, err error) {
	return p, c.call(ctx, http.MethodDelete, "/v1/peers/"+url.PathEscape(name), nil, &p)
}

// ChangePeer changes a device.
func (c *Client) ChangePeer(ctx context.Context, name string, ch Change) (p Peer, err error) {
	return p, c.call(ctx, http.MethodPatch, "/v1/peers/"+url.PathEscape(name), ch, &p)
}

// Invite opens an invitation.
func (c *Client) Invite(ctx context.Context, i Invite) (made Invited, err error) {
	return made, c.call(ctx, http.MethodPost, "/v1/invitations", i, &made)
}

// Sessions returns the connections.
func (c *Client) Sessions(ctx context.Context) (s []Session, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/sessions", nil, &s)
}

// Kick ends a connection.
func (c *Client) Kick(ctx context.Context, id uint64) error {
	return c.call(ctx, http.MethodDelete, fmt.Sprintf("/v1/sessions/%d", id), nil, nil)
}

// Status returns how the gateway does.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// Leases returns the addresses of clients without a key.
func (c *Client) Leases(ctx context.Context) (l []Lease, err error) {
	return l, c.call(ctx, http.MethodGet, "/v1/leases", nil, &l)
}

// Forwards returns the published ports.
func (c *Client) Forwards(ctx context.Context) (f []Forward, err error) {
	return f, c.call(ctx, http.MethodGet, "/v1/forwards", nil, &f)
}

// Published returns the services of clients that are published as these announce them.
func (c *Client) Published(ctx context.Context) (p []Published, err error) {
	return p, c.call(ctx, http.MethodGet, "/v1/published", nil, &p)
}

// AddForward publishes a port of a client.
func (c *Client) AddForward(ctx context.Context, p Publish) (f Forward, err error) {
	return f, c.call(ctx, http.MethodPost, "/v1/forwards", p, &f)
}

// RemoveForward removes a published port, named by where it listens.
func (c *Client) RemoveForward(ctx context.Context, from string) (f Forward, err error) {
	return f, c.call(ctx, http.MethodDelete, "/v1/forwards?from="+url.QueryEscape(from), nil, &f)
}

// Flows returns what goes through the gateway: of a client by its name, address or the number of its session, or of all.
func (c *Client) Flows(ctx context.Context, peer string) (f Flows, err error) {
	return f, c.call(ctx, http.MethodGet, "/v1/flows?peer="+url.QueryEscape(peer), nil, &f)
}

// Reload applies the configuration anew.
func (c *Client) Reload(ctx context.Context) (done Reloaded, err error) {
	return done, c.call(ctx, http.MethodPost, "/v1/reload", nil, &done)
}

// call makes a request. in and out may be nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+Host+path, body)
	if err != nil {
		return err
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return c.explain(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return refusal(answer)
	}
	if out == nil {
		return nil
	}
	return decoderOf(answer).Decode(out)
}

func decoderOf(answer *http.Response) *json.Decoder {
	return json.NewDecoder(io.LimitReader(answer.Body, 64<<20))
}

// refusal is what an answer says that is none.
func refusal(answer *http.Response) error {
	var f failure
	if err := decoderOf(answer).Decode(&f); err != nil || f.Error == "" {
		return fmt.Errorf("the gateway answers %s", answer.Status)
	}
	return errors.New(f.Error)
}

func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no gateway is running with the state directory %s: start vpnsrv, or name another with --state", filepath.Dir(c.path))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the gateway's socket %s may not be opened: run as root", c.path)
	}
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		err = urlErr.Err
	}
	return fmt.Errorf("ask the gateway by %s: %w", c.path, err)
}
