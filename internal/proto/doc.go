// Package proto turns the bytes of a stream into packets and back: the 2013 protocol, and the
// extensions that two Ferry programs agree upon inside it. docs/protocol.md is the normative text;
// testdata/vectors has every packet below as bytes.
//
// A stream carries items back to back; the first byte of an item tells what it is:
//
//	high nibble 4   a control packet (20 bytes, see below), else an IPv4 packet by its total length
//	high nibble 6   an IPv6 packet by its payload length
//	high nibble 8   an extension frame, if extensions were agreed upon
//	anything else   a keepalive with a garbled first byte, or the end of the connection
//
// A control packet is one IPv4 header. Only its addresses carry meaning:
//
//	                          source           destination
//	dynamic address request   0.0.0.0          0.0.0.0
//	static address request    wanted address   0.0.0.0
//	address reply             0.0.0.0          assigned address
//	keepalive                 255.255.255.255  255.255.255.255
//
// Fields that the 2013 protocol leaves free carry the offer of extensions in a request and the
// answer in a reply. The magic number of the two differs, so the plain reflection of a request by a
// 2013 server is no answer:
//
//	 0               1               2               3
//	+---------------+---------------+---------------+---------------+
//	|      0x45     |      0x14     |               0               |
//	+---------------+---------------+---------------+---------------+
//	|  magic: 0xfe52 offer, 0xfe53 answer  |        features        |
//	+---------------+---------------+---------------+---------------+
//	|      0x40     |    version    |   hint (offer), 0 (answer)    |
//	+---------------+---------------+---------------+---------------+
//	|                      source address                           |
//	+---------------+---------------+---------------+---------------+
//	|                      destination address                      |
//	+---------------+---------------+---------------+---------------+
//
// An extension frame is
//
//	+---------------+---------------+---------------+---------------+
//	|     type      |       length of what follows                  |
//	+---------------+---------------+---------------+---------------+
//
// and, for a data frame, a virtio-net header of 10 bytes (package packet) and one IP packet, which
// may be a super-packet of up to 65,535 bytes.
//
// The package does no I/O and keeps no state: the caller owns every buffer, and what is returned
// points into it. Nothing is allocated by a length that the other side claims.
package proto
