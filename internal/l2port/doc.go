// Package l2port takes in machines without a client: virtual machines whose network card is a socket of the host.
//
//	qemu+unix  qemu+tcp     4 bytes length, big endian | frame           QEMU -netdev stream, or socket,connect=
//	bess+unix               one message = one frame (SOCK_SEQPACKET)     User-mode Linux
//	vfkit+unix              one datagram = one frame (SOCK_DGRAM)        vfkit, krunkit: the first datagram may be "VFKT"
//	stdio                   2 bytes length, little endian | frame        whoever starts vpnsrv with pipes
//	(Lengths16)             the same, behind an HTTP request             gvforwarder's /connect: NewLink
//
// A frame is an Ethernet II frame without FCS. To the gateway a machine is a client of the 2013 protocol: a Link translates, so leases,
// router, limits and counters know nothing of Ethernet. What package ether says of a frame becomes an item:
//
//	frame           --> ether.Port --Packet--> the packet, moved down to the one before it: items stand back to back
//	                               --Ask-----> a request for an address; the reply to it is made the answer by DHCP
//	                               --Reply---> kept, and a keepalive: the gateway's echo of it comes by where frames are written
//
// So one goroutine writes, and what answers a machine waits in the same queue as what is sent to it.
//
// The rules are:
//
//   - A length above MaxFrame ends the connection: nobody can tell where the next frame begins. Nothing is allocated by a length.
//   - A frame that is shorter than its header, or anything else that package ether does not like, is dropped and counted: no frame
//     does anything to another machine, or to the listener.
//   - One read takes as many frames as there are, one write sends as many as there are; of datagrams one each.
//   - There is no authentication: sockets have mode 0600, and TCP is for loopback unless the URL says ?from=anywhere.
package l2port
