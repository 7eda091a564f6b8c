package gvproxy

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"regexp"

	"ferry/internal/nameserver"
)

// Zone is a domain whose names are known, as gvproxy has it.
type Zone struct {
	Name      string
	Records   []Record
	DefaultIP net.IP // which tells a bad address in the words of gvproxy
}

// Record is a name, or all that match an expression.
type Record struct {
	Name   string
	IP     net.IP
	Regexp *regexp.Regexp `json:",omitempty"`
}

const noNames = "this gateway is no name server: start it with --nameserver"

func (a *API) zones(w http.ResponseWriter, _ *http.Request) {
	if a.c.Names == nil {
		a.fail(w, http.StatusInternalServerError, noNames)
		return
	}
	all := []Zone{}
	for _, z := range a.c.Names.All() {
		shown := Zone{Name: z.Name, DefaultIP: z.DefaultIP.AsSlice()}
		for _, r := range z.Records {
			shown.Records = append(shown.Records, Record{r.Name, r.IP.AsSlice(), r.Regexp})
		}
		all = append(all, shown)
	}
	write(w, all)
}

func (a *API) addZone(w http.ResponseWriter, r *http.Request) {
	if a.c.Names == nil {
		a.fail(w, http.StatusInternalServerError, noNames)
		return
	}
	var asked Zone
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		a.fail(w, http.StatusBadRequest, err.Error())
		return
	}
	z := nameserver.Zone{Name: asked.Name, DefaultIP: address(asked.DefaultIP)}
	for _, r := range asked.Records {
		z.Records = append(z.Records, nameserver.Record{Name: r.Name, IP: address(r.IP), Regexp: r.Regexp})
	}
	if err := a.c.Names.Add(z); err != nil {
		a.fail(w, http.StatusBadRequest, err.Error())
	}
}

// address is not valid for none.
func address(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
