package gateway

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"path/filepath"
	"time"

	"ferry/internal/api"
	"ferry/internal/publish"
)

// What is published is told to who asks by package api, and by files; and which ports services had is remembered.

// finish says that nothing is published any more.
func (p *publisher) finish() {
	p.table.Close()
	clear(p.open)
	p.write()
}

// write says in the files what is published, and to who asks by package api.
func (p *publisher) write() {
	all := make([]publish.Published, 0, len(p.open))
	for _, l := range p.open {
		all = append(all, l.Published)
	}
	publish.Sort(all)
	listed := make([]listing, len(all))
	for i, a := range all {
		listed[i] = p.open[a.Key]
	}
	// Whom the list shows a service, the files do, too.
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.listed = listed
	}()
	dir := p.g.c().PublishDir
	for _, name := range publish.Files() {
		if dir == "" {
			return
		}
		b, err := publish.Encode(name, all)
		if err == nil {
			err = p.files.Replace(filepath.Join(dir, name), b)
		}
		if err != nil {
			p.complain("publish_dir", "what is published can not be written: the user of the gateway has to be able to make files in publish_dir, and its unit of systemd takes ReadWritePaths= for it",
				"file", filepath.Join(dir, name), "err", err)
		}
	}
}

// complain logs an error that comes as often as clients change their services.
func (p *publisher) complain(cause, msg string, attrs ...any) {
	if left, ok := p.lines.turn(cause, time.Now()); ok {
		p.g.log.Error(msg, append(attrs, "left_out_before", left)...)
	}
}

// A portRecord is a port that is remembered, in the file.
type portRecord struct {
	Client   netip.Addr     `json:"client"`
	Protocol string         `json:"protocol"`
	Guest    netip.AddrPort `json:"guest"`
	Port     uint16         `json:"port"`
}

func (p *publisher) read() (all []publish.Record, err error) {
	file, err := p.g.leases.dir.Open(publishedFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var records []portRecord
	if err == nil {
		defer file.Close()
		err = json.NewDecoder(io.LimitReader(file, maxPublishedFile)).Decode(&records)
	}
	if err != nil {
		return nil, p.g.leases.dir.Explain(errors.Join(errors.New(publishedFile+": remove it, and services get other ports"), err))
	}
	for _, r := range records {
		if r.Client.IsValid() && r.Guest.IsValid() && r.Port != 0 {
			all = append(all, publish.Record{Key: publish.Key{Client: r.Client, UDP: r.Protocol == "udp", Guest: r.Guest}, Port: r.Port})
		}
	}
	return all, nil
}

// store writes down which ports services have. Without it they may have others after a restart, and nothing worse.
func (p *publisher) store() {
	records := p.ports.Records()
	all := make([]portRecord, len(records))
	for i, r := range records {
		all[i] = portRecord{r.Client, r.Protocol(), r.Guest, r.Port}
	}
	b, err := json.Marshal(all)
	if err == nil {
		err = p.g.leases.dir.Replace(publishedFile, append(b, '\n'))
	}
	if err != nil {
		p.complain(publishedFile, "ports of services can not be stored", "err", p.g.leases.dir.Explain(err))
	}
}

// list returns what is published now.
func (p *publisher) list() []api.Published {
	if p == nil {
		return []api.Published{}
	}
	p.mu.Lock()
	listed := p.listed
	p.mu.Unlock()
	all := make([]api.Published, 0, len(listed))
	for _, l := range listed {
		shown := api.Published{Endpoint: l.Endpoint()}
		if s, err := p.table.Find(l.from); err == nil {
			shown.Connections, shown.Total, shown.Failed, shown.Received, shown.Sent = s.Live, s.Total, s.Failed, s.Down, s.Up
		}
		all = append(all, shown)
	}
	return all
}

// stats are how many services are published, and how many were not, by reason.
func (p *publisher) stats() (n int, refused map[string]uint64) {
	if p == nil {
		return 0, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.listed), maps.Clone(p.refused)
}
