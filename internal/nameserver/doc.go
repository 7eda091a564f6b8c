// Package nameserver answers the questions of clients about names, on the gateway's own address, UDP and TCP port 53 (RFC 1035):
//
//	question --> Server -- what is known here --> answer, authoritative
//	                |
//	                +----- all else --> the bytes as they came, but another ID --> servers of the longest suffix, or upstream
//
//	known here   NAME.ferry.internal   clients by their names, and gateway           Directory
//	             NAME                  the same, if there is such a client
//	             7.3.0.10.in-addr.arpa addresses of the pool
//	             www.lab.example       zones, of the configuration or added later    Zone
//
// What is known here is never asked for elsewhere, whatever its type: a name without an address of that kind has an empty answer, one that
// is not there NXDOMAIN, both with the SOA that says for how long (RFC 2308). Letters of either case are the same, and come back as they were
// asked. ANY has a minimal answer (RFC 8482).
//
// The rules are:
//
//   - Only clients ask; who else reaches the address hears nothing.
//   - What goes upstream is not understood here: any type, any EDNS option, and the answer passes as it came. Only the size that a client takes by UDP is
//     bounded, at 1232 bytes, which no network cuts into fragments; what is longer comes by TCP.
//   - A failure is SERVFAIL, never NXDOMAIN, and comes before the client gives up.
//   - Nothing is asked of who asks: this host's own resolver, and a client that is a server for others, hear only what is known here, else the
//     question would go round.
//   - Answers to what is known are given at once, by who has read the question; a forwarded one has a goroutine, of which there is a bounded
//     number, in all and for one client. Beyond that questions are dropped, and come again.
//
// What clients can make a gateway hold: 1024 questions that wait upstream, each with a socket, 128 of one client; 256 connections of TCP, 16 of one
// client, for 10 s of silence, each with 4 KiB and 16 of those questions. Nothing is cached: the servers upstream do that.
package nameserver
