// Package datagram makes a carrier.Link of anything that carries datagrams: secret, genuine, and able to move to
// another address while it is in use.
//
//	        items, whole                                            items, whole
//	            |                                                        ^
//	Link: TryWrite ── pack, number ──▶ seal ──▶ Transport ⇢ Transport ──▶ open ── replay window ──▶ Fill
//	            |                       ^                                 |
//	            +── what must not be lost: stream, acks, timer ───────────+
//
// There are two kinds of packets. All numbers are big endian.
//
//	data     [id 8]                          [number 8] AEAD( frames, items )    id: of who receives; its first bit is 0
//	others   [type 1][version 1][client's id 8][number 8] AEAD( frames )
//
//	0x80 initial             keys made of the client's id: known to all who see it, but to nobody else
//	0x81 handshake           keys of the handshake
//	0x82 initial, with [cookie 20] behind the number
//	0x83 retry               [type 1][version 1][client's id 8][cookie 20]: once more, with the cookie
//	0x84 unknown             [type 1][version 1][gateway's id 8][token 16]: the gateway has no such connection (any more)
//
// The handshake is TLS 1.3 as crypto/tls does it for QUIC (RFC 9001): its bytes travel in frames, each level of keys has a
// stream of its own. Each end names its id, the longest datagram that it takes and, the gateway, the token of a later
// unknown packet, as its transport parameters.
//
//	client                                                gateway
//	initial: ClientHello, padded            ──▶           no more state than N, else retry
//	                                        ◀──           initial: ServerHello; handshake: ... Finished
//	handshake: certificate, Finished        ──▶
//	data: items                             ──▶◀──        data: an ack, items
//
// A packet of data has frames, if any, and then items (docs/protocol.md); an item never begins with one of the bytes 0 to 6:
//
//	0 padding: all the rest                    3 ack       [number 8][before 8][n 1] n times [from 8][to 8]
//	1 ping                                     4 close     [alert 1]
//	2 stream [offset 8][length 2][bytes]       5 challenge [8]       6 response [8]
//
// An ack names the packet that brought it about, and what has come of the stream.
//
// The rules are:
//
//   - Keys last for 2^22 packets (RFC 9001, section 6.6: 2^23); the number of a packet says which generation it is of.
//   - To an address that is not proven goes no more than came from there.
//   - A packet that is not genuine is dropped and counted; nothing follows from it.
//   - One goroutine reads the transport. Who calls Fill decrypts; who calls Write encrypts; a timer sends again.
//   - Data is never sent again: whoever is inside the tunnel does.
package datagram

import "time"

const (
	version = 1

	idLen     = 8
	tagLen    = 16
	shortLen  = idLen + 8     // header of a data packet
	longLen   = 2 + idLen + 8 // header of another one
	cookieLen = 20            // behind it
	retryLen  = 2 + idLen + cookieLen
	tokenLen  = 16
	lostLen   = 2 + idLen + tokenLen // an unknown packet
	// Overhead is what a datagram has beyond frames and items.
	Overhead = shortLen + tagLen
)

// Types of packets.
const (
	typeInitial   = 0x80
	typeHandshake = 0x81
	typeCookie    = 0x82 // initial
	typeRetry     = 0x83
	typeUnknown   = 0x84
)

const (
	// smallest is what the datagrams of a handshake are padded to, so that the answer is no larger (RFC 9000, section 14.1).
	smallest = 1200
	// shakeWindow and window bound what is under way in a stream, bytes: in the handshake and later.
	shakeWindow = 16 << 10
	window      = 64 << 10
	// maxPieces bounds how many pieces of a stream wait for one before them.
	maxPieces = 64

	// firstTimeout is when what was not acknowledged is sent again before a round trip was measured. It is far less than
	// QUIC's second: what comes twice costs little, and a tunnel that waits is felt.
	firstTimeout = 250 * time.Millisecond
	minTimeout   = 20 * time.Millisecond
	maxTimeout   = 2 * time.Second
	// patience is how long a stream waits for an ack before the connection is dead.
	patience = 10 * time.Second
	// cookieLife is how long a cookie is good for.
	cookieLife = 30 * time.Second

	// maxForged is how many packets may be forged under the keys of a connection: what ChaCha20-Poly1305 stands, and less than AES-GCM
	// does (RFC 9001, section 6.6).
	maxForged = 1 << 36

	// queueBytes bounds the memory of datagrams that wait to be decrypted; shakeBytes that of a handshake.
	queueBytes = 2 << 20
	shakeBytes = 48 << 10
)
