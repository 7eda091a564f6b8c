// Package icmp is the carrier for networks that let nothing pass but ping: package datagram, over package polling, in ICMP echo (RFC 792).
//
//	question   [type 8][code 0][checksum 2][identifier 2][sequence 2] [marker "Fry?" 4][number, upper half 2][0 2]    [datagram]
//	answer     [type 0][code 0][checksum 2][identifier 2][sequence 2] [marker "Fry!" 4][number, upper half 2][held 2] [datagram]
//
// The sequence is the lower half of the number; held is for how many milliseconds the question has waited. An answer has no more around its
// datagram than a question, so it is no larger if the datagram is not. Numbers are big endian.
//
//	client                                       gateway
//	ping socket, or a raw one   question ──────▶ raw socket: echo requests with our marker (BPF)
//	                                             kernel: its own echo reply, which an nft rule drops (hostnet.State.Pings)
//	   BPF: our marker          ◀────── answer   raw socket
//
// A client is known by its address and the identifier, which is to ICMP what a port is to UDP: NATs map it, and keep one apart
// from another by it (RFC 5508, section 3). When a mapping is another one, package datagram moves the connection, as over UDP.
//
// Where the gateway has no nft, the kernel's replies go out too. They carry the client's marker, so the client does not take them for
// answers; but a firewall that lets one answer pass to each question lets that one pass.
//
// The socket of a client is one for pings (SOCK_DGRAM, IPPROTO_ICMP: the kernel chooses the identifier and brings the answers to it alone),
// which takes no rights where net.ipv4.ping_group_range has the group of the process; else a raw one, which takes CAP_NET_RAW, with a random
// identifier and a filter. Only IPv4.
//
// A question waits for 12 s at most: longer than two polls of an idle client are apart, so the gateway can speak at once where firewalls
// remember a ping for as long (Linux: 30 s; some forget it after 2 s, and lose what it says first after a pause). Up to 1024 questions are
// under way: 75 MB/s at a round trip of 20 ms. For what a stranger can make a gateway hold see package polling; Back is 10 bytes here.
package icmp

import (
	"time"

	"ferry/internal/carrier/polling"
)

// The markers that payloads begin with.
const (
	Question = 0x4672793f // "Fry?"
	Answer   = 0x46727921 // "Fry!"
)

const (
	echoReply   = 0
	echoRequest = 8

	echoLen    = 8 // type to sequence
	payloadLen = 8 // marker to held
	headerLen  = echoLen + payloadLen

	// Max is the length of the longest datagram on a path of 1500 bytes.
	Max = 1500 - 20 - headerLen
)

// config is how polling is done.
var config = polling.Config{Polls: 1024, Least: 4, Hold: 12 * time.Second}
