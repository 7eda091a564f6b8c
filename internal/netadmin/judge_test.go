package netadmin

import (
	"net/netip"
	"testing"

	"ferry/internal/hostnet"
	"ferry/internal/policy"
)

// What a state may say follows from what the owner of the device, or the operator of the gateway, has said.
// exam: S11
func TestJudge(t *testing.T) {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	device := Rules{Mark: 7, Table: 77, Echo: 0x4672, Policy: &policy.Rules{
		Accept: policy.DefaultAccept, Routes: routes("1.0.0.0/1"), DefaultRoute: true,
	}}
	split := device
	split.Policy = &policy.Rules{Accept: policy.DefaultAccept, RefuseDNS: true, RefuseRoutes: true}
	usual, narrow := device, device
	usual.Policy = &policy.Rules{}
	narrow.Policy = &policy.Rules{Accept: []netip.Prefix{prefix("203.0.113.0/24")}}
	gateway := Rules{Addr: prefix("10.0.0.1/16"), Routes: routes("7.0.0.0/7"), Echo: 0x4672}
	silent := gateway
	silent.Echo = 0
	outer := hostnet.Outer{Mark: 7, Table: 77, Peers: []netip.Addr{addr("192.0.2.1")}}
	at := prefix("10.0.3.7/16")
	for name, tt := range map[string]struct {
		rules Rules
		state hostnet.State
		ok    bool
	}{
		"device":                    {device, hostnet.State{Addr: at, MTU: 1400, Routes: routes("192.168.7.0/24", "1.0.0.0/1"), Outer: outer, LocalNets: true, Guard: true}, true},
		"full tunnel":               {device, hostnet.State{Addr: at, Routes: routes("0.0.0.0/0"), Outer: outer, DNS: []netip.Addr{addr("10.0.0.1")}, Domains: []string{"site.example"}}, true},
		"closed":                    {device, hostnet.State{Routes: routes("0.0.0.0/0"), Outer: outer}, true},
		"a name server's route":     {device, hostnet.State{Addr: at, Routes: routes("0.0.0.0/0", "9.9.9.9/32"), Outer: outer, DNS: []netip.Addr{addr("9.9.9.9")}}, true},
		"foreign address":           {device, hostnet.State{Addr: prefix("8.8.8.8/32"), Outer: outer}, false},
		"foreign address, full":     {device, hostnet.State{Addr: prefix("8.8.8.8/32"), Routes: routes("0.0.0.0/0"), Outer: outer}, false},
		"no address":                {device, hostnet.State{Outer: outer}, false},
		"MTU":                       {device, hostnet.State{Addr: at, MTU: 68, Outer: outer}, false},
		"half of everything":        {device, hostnet.State{Addr: at, Routes: routes("128.0.0.0/1"), Outer: outer}, false},
		"loopback":                  {device, hostnet.State{Addr: at, Routes: routes("127.0.0.0/8"), Outer: outer}, false},
		"masquerade":                {device, hostnet.State{Addr: at, Outer: outer, Masquerade: true}, false},
		"another table":             {device, hostnet.State{Addr: at, Outer: hostnet.Outer{Mark: 7, Table: 78}}, false},
		"another mark":              {device, hostnet.State{Addr: at, Outer: hostnet.Outer{Mark: 8, Table: 77}}, false},
		"a domain that is a line":   {device, hostnet.State{Addr: at, Routes: routes("0.0.0.0/0"), Outer: outer, DNS: []netip.Addr{addr("10.0.0.1")}, Domains: []string{"x\n#@ /etc/shadow"}}, false},
		"a name server elsewhere":   {device, hostnet.State{Addr: at, Outer: outer, DNS: []netip.Addr{addr("9.9.9.9")}}, false},
		"a full tunnel not wanted":  {split, hostnet.State{Addr: at, Routes: routes("0.0.0.0/0"), Outer: outer}, false},
		"a route not wanted":        {split, hostnet.State{Addr: at, Routes: routes("192.168.7.0/24"), Outer: outer}, false},
		"name servers not wanted":   {split, hostnet.State{Addr: at, Outer: outer, DNS: []netip.Addr{addr("10.0.0.1")}}, false},
		"gateway":                   {gateway, hostnet.State{Addr: prefix("10.0.0.1/16"), MTU: 1500, Routes: routes("192.168.7.0/24", "7.0.0.0/7"), Masquerade: true}, true},
		"another address":           {gateway, hostnet.State{Addr: prefix("10.0.0.2/16")}, false},
		"everything to the gateway": {gateway, hostnet.State{Addr: prefix("10.0.0.1/16"), Routes: routes("0.0.0.0/0")}, false},
		"half of it":                {gateway, hostnet.State{Addr: prefix("10.0.0.1/16"), Routes: routes("0.0.0.0/1")}, false},
		"a gateway's name servers":  {gateway, hostnet.State{Addr: prefix("10.0.0.1/16"), DNS: []netip.Addr{addr("9.9.9.9")}}, false},
		"a gateway's table":         {gateway, hostnet.State{Addr: prefix("10.0.0.1/16"), Outer: outer}, false},
		"a gateway's mark":          {gateway, hostnet.State{Addr: prefix("10.0.0.1/16"), Outer: hostnet.Outer{Mark: 7}}, false},
		"a gateway's other table":   {gateway, hostnet.State{Addr: prefix("10.0.0.1/16"), Outer: hostnet.Outer{Table: 7}}, false},
		"a gateway's networks":      {gateway, hostnet.State{Addr: prefix("10.0.0.1/16"), LocalNets: true}, false},
		"a gateway's domains":       {gateway, hostnet.State{Addr: prefix("10.0.0.1/16"), Domains: []string{"lan"}}, false},
		"closed, but for a route":   {device, hostnet.State{Routes: routes("0.0.0.0/0", "192.168.7.0/24"), Outer: outer}, false},
		"closed, with a server":     {device, hostnet.State{Routes: routes("0.0.0.0/0"), Outer: outer, DNS: []netip.Addr{addr("10.0.0.1")}}, false},
		"a range of the owner's":    {narrow, hostnet.State{Addr: prefix("203.0.113.5/24"), Outer: outer}, true},
		"a range of others":         {narrow, hostnet.State{Addr: at, Outer: outer}, false},
		"the usual ranges":          {usual, hostnet.State{Addr: at, Outer: outer}, true},
		"a route of nobody's":       {usual, hostnet.State{Addr: at, Outer: outer, Routes: routes("224.0.0.0/4")}, false},
		"a host of nobody's":        {usual, hostnet.State{Addr: at, Outer: outer, Routes: routes("127.0.0.9/32")}, false},
		"a network of a server's":   {usual, hostnet.State{Addr: at, Outer: outer, Routes: routes("9.0.0.0/7", "10.0.3.0/24"), DNS: []netip.Addr{addr("10.0.3.0")}}, false},
		"a device's echoes":         {device, hostnet.State{Addr: at, Outer: hostnet.Outer{Mark: 7, Table: 77, Pings: 0x4672}}, true},
		"echoes of others":          {device, hostnet.State{Addr: at, Outer: hostnet.Outer{Mark: 7, Table: 77, Pings: 0x6162}}, false},
		"others', closed":           {device, hostnet.State{Routes: routes("0.0.0.0/0"), Outer: hostnet.Outer{Mark: 7, Table: 77, Pings: 0x6162}}, false},
		"a device that answers":     {device, hostnet.State{Addr: at, Outer: outer, Pings: 0x4672}, false},
		"a gateway's echoes":        {gateway, hostnet.State{Addr: prefix("10.0.0.1/16"), Pings: 0x4672}, true},
		"echoes of others there":    {gateway, hostnet.State{Addr: prefix("10.0.0.1/16"), Pings: 0x6162}, false},
		"a gateway that dials":      {gateway, hostnet.State{Addr: prefix("10.0.0.1/16"), Outer: hostnet.Outer{Pings: 0x4672}}, false},
		"one that answers none":     {silent, hostnet.State{Addr: prefix("10.0.0.1/16"), Pings: 0x4672}, false},
		"a gateway's guard":         {gateway, hostnet.State{Addr: prefix("10.0.0.1/16"), Guard: true}, false},
	} {
		if err := tt.rules.judge(tt.state); (err == nil) != tt.ok {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
