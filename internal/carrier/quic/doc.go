// Package quic is the carrier over QUIC (RFC 9000) with datagrams (RFC 9221): packets travel in DATAGRAM frames, so one that is
// lost holds up no other, and the words of the protocol on a stream, where none is lost.
//
//	             UDP, QUIC, TLS 1.3 with the keys of package identity
//	client ──┬── stream 0, which the client opens: [item][item] ...              request, reply, config, attach, switch, goodbye ...
//	         └── datagrams: [number frame][data item][data item] ... [ack]       data frames, packets, fragments, ping, pong, ack
//
// A datagram has whole items. One with a data item begins with a number frame, for the datagrams before it may be lost; the other
// end counts on from there. Within the stream items keep their order, and nowhere else.
//
// The library has no way to send a datagram without waiting, so what is to be sent passes through bounded memory of the link:
//
//	TryWrite, Write ──▶ batch, at most 72 KiB of datagrams ──▶ pump ──▶ SendDatagram
//	               └──▶ words, at most 64 KiB              ──▶ pump ──▶ stream
//	Fill ◀── inbox, at most 128 KiB ◀──┬── goroutine that receives datagrams
//	                                   └── goroutine that reads the stream
//
// A pump is a goroutine that ends when nothing is left: an idle link has two goroutines, and two more of the library, besides two
// for each socket. The library drops what comes while 128 datagrams wait before the inbox, and says so to nobody; its congestion
// control, which stands for many connections (congestion.go), hears only of what was lost on the way.
//
// The rules are:
//
//   - No 0-RTT, no session tickets, no tokens for later: every connection proves its keys.
//   - A stranger is let in by Accept before any public key is computed with. At most 256 handshakes are open, and from 64 on
//     a client has to prove its address (Retry, RFC 9000 section 8.1.2).
//   - QUIC keeps nothing alive: that is the affair of the layers above, within idleTimeout.
//   - The client's address may change, as it does when a NAT forgets: the gateway follows (section 9).
package quic
