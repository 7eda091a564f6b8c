// Package router moves packets between ports: one for each peer, and one for the exit, which is the
// network of this machine. It decides where a packet goes, checks it once before it goes anywhere,
// and holds the bounded queue in front of each peer.
//
//	  reading goroutine                                      writing goroutine
//	of a peer or the exit                                       of a peer
//	         |                                                      ^
//	         v            one run of packets                        |
//	   Forwarder --check--route--collect--> Port.out = Queue --- blocks --> carrier.Stream
//	                                    \             \____ at once, if nothing waits ____^
//	                                     \-> Port.out = the exit: the TUN
//
// A run is what one read brought for one destination: data frames (package proto) that stand back
// to back in the reader's buffer and leave it in one system call, uncopied.
//
// The rules are:
//
//   - A packet is checked by the Forwarder and nowhere else: its length, its source, its offload
//     header, its destination. Whoever implements Table decides about addresses only.
//   - Sending never waits. What a queue can not take is dropped there and counted by reason, so a
//     peer that does not read hurts itself alone.
//   - Nothing is allocated per packet, and no lock is held over I/O.
package router
