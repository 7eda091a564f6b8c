package cli

import (
	"fmt"
	"log/slog"
	"os"

	"ferry/internal/config"
	"ferry/internal/confine"
	"ferry/internal/durable"
	"ferry/internal/netadmin"
)

// A Host is what a program has in the place of the rights that it gives up: a process that looks after the
// network of this host.
type Host struct {
	*netadmin.Client
	Rights
}

// StartHost starts the process. rights are those that this one keeps when it is confined.
func StartHost(r netadmin.Rules, p config.Process, rights confine.Rules, log *slog.Logger) (*Host, error) {
	own, err := NewRights(p, rights, log)
	if err != nil {
		return nil, err
	}
	r.LogFormat, r.LogLevel = p.Format, p.Level
	manager()
	c, err := netadmin.Start(r)
	if err != nil {
		return nil, err
	}
	return &Host{Client: c, Rights: *own}, nil
}

// Rights are those that a program has, and gives up.
type Rights struct {
	stay confine.Rules
	user confine.User
	log  *slog.Logger
}

// NewRights returns the rights of a program that changes nothing of its host. Those that stay are what it keeps when it is confined.
func NewRights(p config.Process, stay confine.Rules, log *slog.Logger) (*Rights, error) {
	user, err := confine.FindUser(p.RunAs)
	if err != nil {
		return nil, &config.UsageError{Err: fmt.Errorf("--run-as: %w", err)}
	}
	return &Rights{stay, user, log}, nil
}

// Confine implements gateway.Host and client.Host.
func (h *Rights) Confine(state *durable.Dir, files ...string) error {
	var lacking []string
	if os.Geteuid() == 0 { // anybody else was chosen by who started this
		if err := h.user.Reachable(state != nil); err != nil {
			lacking = append(lacking, "user: "+err.Error())
		} else {
			h.stay.User = &h.user
		}
	}
	if state != nil {
		h.stay.Write = append(h.stay.Write, state.Name())
	}
	if state != nil && h.stay.User != nil {
		if err := state.Give(h.user.UID, h.user.GID, files...); err != nil {
			return err
		}
	}
	more, err := confine.Process(h.stay)
	if err != nil {
		return err
	}
	if lacking = append(lacking, more...); len(lacking) > 0 {
		h.log.Warn("this program keeps more rights than it needs: the host does not have all that takes them away", "lacking", lacking)
	}
	return nil
}
