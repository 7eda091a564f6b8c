package netns

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"ferry/test/lab"
)

// serveNames has a name server of the Internet, which knows www.example, until the test ends.
func serveNames(t *testing.T, ns *lab.Namespace, addr string) {
	t.Helper()
	var udp net.PacketConn
	var tcp net.Listener
	if err := ns.Do(func() (err error) {
		if udp, err = net.ListenPacket("udp4", addr); err == nil {
			tcp, err = net.Listen("tcp4", addr)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		switch q := m.Question[0]; {
		case q.Name == "www.example." && q.Qtype == dns.TypeA:
			r.Answer = append(r.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IP{192, 0, 2, 80}})
		case q.Name == "long.example." && q.Qtype == dns.TypeTXT:
			for range 20 {
				r.Answer = append(r.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{strings.Repeat("x", 200)}})
			}
			if w.RemoteAddr().Network() == "udp" {
				r.Truncate(dns.MinMsgSize)
			}
		default:
			r.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(r)
	})
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: answer}, {Listener: tcp, Handler: answer}} {
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		serving.Go(func() { _ = s.ActivateAndServe() })
		<-ready
		t.Cleanup(func() { _ = s.Shutdown() })
	}
}

// dig asks the gateway, and compares the status, the flags and the answer.
func dig(t *testing.T, ns *lab.Namespace, question string, want ...string) {
	t.Helper()
	out := strings.Join(strings.Fields(run(t, ns, "dig +tries=2 +time=5 -r @"+gatewayVPN+" "+question)), " ")
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("dig %s: want %q\n%s", question, w, out)
		}
	}
}

const silent = "192.168.103.2" // where nobody answers

// askAll asks for what every gateway with a name server knows, whatever its exit is.
func askAll(t *testing.T, ns *lab.Namespace, name, addr string) {
	t.Helper()
	for _, how := range []string{"", "+tcp "} {
		dig(t, ns, how+name+".ferry.internal", "status: NOERROR", "qr aa rd ra", name+".ferry.internal. 30 IN A "+addr)
		dig(t, ns, how+strings.ToUpper(name)+".FERRY.internal", strings.ToUpper(name)+".FERRY.internal. 30 IN A "+addr)
		dig(t, ns, how+"-x "+addr, "PTR "+name+".ferry.internal.")
		dig(t, ns, how+name+".ferry.internal AAAA", "status: NOERROR", "ANSWER: 0, AUTHORITY: 1", "IN SOA")
		dig(t, ns, how+"nobody.ferry.internal", "status: NXDOMAIN", "IN SOA")
		dig(t, ns, how+"gateway.ferry.internal", "IN A "+gatewayVPN)
		dig(t, ns, how+"www.example", "status: NOERROR", "www.example. 60 IN A 192.0.2.80")
		dig(t, ns, how+"nobody.example", "status: NXDOMAIN")
		dig(t, ns, how+"long.example TXT", "status: NOERROR", "ANSWER: 20")
		dig(t, ns, how+"www.corp.example", "status: SERVFAIL", "EDE: 22")
		dig(t, ns, how+"db.lab.example", "IN A 10.0.200.9")
	}
}

// names are what the configurations of these tests say beside what is known of clients.
const names = "\n[dns_forward]\n\"corp.example\" = [\"" + silent + "\"]\n[dns_zones.\"lab.example\"]\ndb = \"10.0.200.9\"\n"

// TestNameserver resolves names of devices, and what the Internet knows, at the gateway; strangers hear nothing.
//
//	c1 --- vpnsrv, 10.0.0.1:53 --- lan, name server
//	c2 ---/
func TestNameserver(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	serveNames(t, n.lan, lanHost+":53")
	file := filepath.Join(t.TempDir(), "vpnsrv.toml")
	run(t, n.gw, fmt.Sprintf("%s/vpnsrv init --state %s --config %s", bin, n.state, file))
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, string(b)+names)
	n.startSecure("--config", file, "--listen", "tcp://:2002?allow=tls", "--nameserver", "--dns-upstream", lanHost)

	conf := filepath.Join(t.TempDir(), "resolv.conf")
	writeFile(t, conf, resolvConf)
	one := &device{start(t, n.c1, withFile(conf, "/etc/resolv.conf", filepath.Join(bin, "vpncli"), "--json", "--config=", "-s", gatewayC1,
		"--default-route", "--state", n.join(n.c1, "cam1"))...), t, n.c1}
	one.waitConnected()
	two := newClient(t, n.c2, "--state", n.join(n.c2, "Door.2"))
	b2 := two.waitConnected()

	dig(t, n.c1, "door.2.ferry.internal", "IN A "+b2)
	dig(t, n.c1, "-x "+b2, "PTR Door.2.ferry.internal.")
	askAll(t, n.c2, "cam1", "10.0.127.254")
	if out := run(t, n.c1, fmt.Sprintf("nsenter -t %d -m getent ahostsv4 cam1", one.Pid())); !strings.Contains(out, "10.0.127.254") {
		t.Errorf("programs of the client do not find it: %s", out)
	}
	if out, err := n.c3.Run("dig +tries=1 +time=1 @" + gatewayVPN + " cam1.ferry.internal"); err == nil {
		t.Errorf("a stranger has an answer: %s", out)
	}
	if out, _ := n.gw.Run("dig +tries=1 +time=2 @" + gatewayVPN + " www.example"); !strings.Contains(out, "status: REFUSED") {
		t.Errorf("this host's own resolver would ask itself: %s", out)
	}
	writeFile(t, file, strings.Replace(string(b)+names, "db = ", "mail = ", 1))
	if out := n.vpnsrv("reload"); !strings.Contains(out, "dns_zones") {
		t.Errorf("reload: %s", out)
	}
	dig(t, n.c2, "db.lab.example", "status: NXDOMAIN")
	dig(t, n.c2, "mail.lab.example", "IN A 10.0.200.9")
	run(t, n.gw, fmt.Sprintf("%s/vpnsrv peer disable cam1 --state %s", bin, n.state))
	dig(t, n.c2, "cam1.ferry.internal", "status: NXDOMAIN")
	if status := n.vpnsrv("status"); !strings.Contains(status, "questions for names") || !strings.Contains(status, "forwarded") {
		t.Errorf("status:\n%s", status)
	}
}

// TestNameserverOfUser is the same at a gateway without rights, which has ports of its own.
func TestNameserverOfUser(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "ferry-names-") // which nobody can read
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "vpnsrv.toml")
	writeFile(t, file, "nameserver = true\ndns_upstream = ['"+lanHost+"']\n[reserved]\ncam1 = '10.0.200.7'\n"+names)
	n := newUserGateway(t, "--config", file)
	serveNames(t, n.lan, lanHost+":53")
	if a := newClient(t, n.c1, "-s", gatewayC1, "--name", "cam1").waitConnected(); a != "10.0.200.7" {
		t.Errorf("got %s", a)
	}
	newClient(t, n.c2, "-s", gatewayC2).waitConnected()
	askAll(t, n.c2, "cam1", "10.0.200.7")
}
