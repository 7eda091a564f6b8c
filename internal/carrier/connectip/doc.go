// Package connectip is the carrier that looks like proxied IP (RFC 9484), over HTTP/3 and over HTTP/1.1:
//
//	HTTP/3, connect-ip://, UDP port 443          :method CONNECT, :protocol connect-ip, :path /.well-known/masque/ip/*/*/
//	HTTP/1.1, connect-ip+h1://, TCP port 443     GET of that path, Upgrade: connect-ip
//
// Who comes is one of two. A *stock* client is any that speaks RFC 9484. It is a client of the 2013 protocol to the gateway, and a
// Stock is the Link that translates:
//
//	address request      ADDRESS_REQUEST, or none: one dynamic request comes first in any case
//	address reply        ADDRESS_ASSIGN of one /32, and once ROUTE_ADVERTISEMENT
//	IPv4, IPv6 packet    H3: [quarter stream ID][context 0][packet] in a QUIC datagram      H1: a DATAGRAM capsule [context 0][packet]
//	keepalive            none: QUIC's, or TCP's
//
// *Ferry's own* client says so by a header, Ferry-Context: 2, which the gateway repeats. Then context 2 has packets of package
// datagram, with the handshake inside, and context 0 has nothing:
//
//	H3   [quarter stream ID][2][part 1][a packet of package datagram, or half of it]      in a QUIC datagram
//	     part: 0 all of it; 0x40 + n the first half, 0x80 + n the second one, n counts modulo 64
//	H1   capsules of type 0x20020002: a part of a stream of bytes, in which is Ferry's handshake (package tls) and its records
//
// A capsule of HTTP/1.1 may become a datagram on the way, where DATAGRAM capsules may get lost (RFC 9297, section 3.5): hence another
// type. Halves are for datagrams that QUIC does not carry before it has found out about the path.
//
// The rules are:
//
//   - The outer TLS proves no gateway to Ferry's clients, as in package ws. A stock client is proven by the certificate that it shows in it:
//     one, self-signed, with an Ed25519 key that the gateway knows.
//   - Who asks is a stranger until then: one request of at most 8 KiB, no body, until the gateway's patience ends. Nothing is
//     allocated by a length that he claims: a capsule of a type that nobody needs is skipped, one of addresses has at most 1 KiB, a
//     packet at most 64 KiB, of memory as much as came of it.
//   - What waits for Fill is at most 64 KiB; what waits for QUIC at most 48 KiB twice, and 32 datagrams of the library.
//   - A packet that goes to a stock client has lived one hop longer (RFC 9484, section 7): its TTL is one less, and one that had 1 is dropped.
//
// Goroutines: a Stock has one that reads the stream and, by HTTP/3, one that takes datagrams; they end with Close, which waits for
// them. By HTTP/3 there is one for each connection in which the library serves it, one of package datagram for Ferry's own clients,
// and one more while datagrams wait to be sent.
package connectip
