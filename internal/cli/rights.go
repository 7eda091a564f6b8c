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
	rights confine.Rules // that stay
	user   confine.User
	log    *slog.Logger
}

// StartHost starts the process. rights are those that this one keeps when it is confined.
func StartHost(r netadmin.Rules, p config.Process, rights confine.Rules, log *slog.Logger) (*Host, error) {
	user, err := confine.FindUser(p.User)
	if err != nil {
		return nil, &config.UsageError{Err: fmt.Errorf("--user: %w", err)}
	}
	r.LogFormat, r.LogLevel = p.Format, p.Level
	manager()
	c, err := netadmin.Start(r)
	if err != nil {
		return nil, err
	}
	return &Host{Client: c, rights: rights, user: user, log: log}, nil
}

// Confine implements gateway.Host and client.Host.
func (h *Host) Confine(state *durable.Dir, files ...string) error {
	var lacking []string
	if os.Geteuid() == 0 { // anybody else was chosen by who started this
		if err := h.user.Reachable(state != nil); err != nil {
			lacking = append(lacking, "user: "+err.Error())
		} else {
			h.rights.User = &h.user
		}
	}
	if state != nil {
		h.rights.Write = append(h.rights.Write, state.Name())
	}
	if state != nil && h.rights.User != nil {
		if err := state.Give(h.user.UID, h.user.GID, files...); err != nil {
			return err
		}
	}
	more, err := confine.Process(h.rights)
	if err != nil {
		return err
	}
	if lacking = append(lacking, more...); len(lacking) > 0 {
		h.log.Warn("this program keeps more rights than it needs: the host does not have all that takes them away", "lacking", lacking)
	}
	return nil
}
