// Package gvproxy speaks the HTTP API of gvproxy (github.com/containers/gvisor-tap-vsock), as its version 0.8.9 does: the same paths, JSON and texts,
// so that its clients, podman machine and package pkg/client among them, can be left as they are.
//
//	GET  /services/forwarder/all        [{"local":":6443","remote":"192.168.127.2:6443","protocol":"tcp"}]
//	POST /services/forwarder/expose     the same, of one; protocol is tcp (also if it is missing), udp or unix
//	POST /services/forwarder/unexpose   {"local":":6443","protocol":"tcp"}
//	GET  /services/dns/all              the zones
//	POST /services/dns/add              one zone
//	GET  /services/dhcp/leases, /leases {"192.168.127.2":"5a:94:ef:e4:0c:ee"}
//	GET  /cam                           {"5a:94:ef:e4:0c:ee":7}: the machines that are plugged in, and the numbers of their sessions
//	GET  /stats                         counters
//	POST /tunnel?ip=A.B.C.D&port=N      "OK", without a status line, and then the bytes of a connection to there
//	POST /connect                       Ethernet frames, 2 bytes length, little endian, before each: a machine; no answer before them
//
//	who comes               may
//	Inside: a client        expose a port of its own address, on a port from 1024 on, see those, and unexpose them
//	Services                all but /connect
//	Services and /connect   all
//
// An error is one line of text, with the status that gvproxy gives. Where gvproxy has a fault, this has not: a host name as a remote is refused, a
// file at the path of a socket is left alone, and bytes that come behind a request are not lost.
//
// The rules are:
//
//   - There is no authentication: who may open the socket may do all of that. A web page that gets a browser to speak to it is refused, by the Host that
//     it can not choose and the Origin that it can not hide.
//   - What is exposed here lasts as long as the gateway runs, as with gvproxy: its clients expose again what they need.
//   - Connections, headers, bodies and times are bounded. A connection that has become a tunnel or a machine has bounds of its own.
//
// Goroutines, each waited for by Serve: those of net/http, one for each connection; a tunnel keeps its own. A Notifier has one, Run.
package gvproxy
