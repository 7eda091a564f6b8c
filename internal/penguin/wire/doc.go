// Package wire is what a host and a guest of vpnguin (https://github.com/rehosting/vpnguin), the VPN of the firmware rehosting system
// Penguin, say to each other, and what the host is told by a file. Its forms are those of vpnguin's bincode 1 and CSV, byte for byte.
//
// A request opens each connection:
//
//	u16 big-endian: length of the body | body, little-endian
//	Forward = u32 0 | destination | u32 0 TCP, 1 UDP | source | interface    port p
//	RawL3   = u32 1 | name | u8 IP protocol                                  port p+1
//	RawL2   = u32 2 | name                                                   port p+2
//
//	address   = u32 0 | 4 octets | u16 port     or     u32 1 | 16 octets | u16 port
//	name      = u64 length | bytes
//	interface = 00     or     01 | name
//
// Behind it: of TCP a status byte if an interface was named, and then the bytes of the stream; of all others both ways
//
//	u16 big-endian: length | datagram, IPv4 packet or Ethernet frame
//
// testdata/vectors has what the original sends. Hosts from before 2026-06 send no interface, those from before 2025-02 no source:
// they are left out, and so is the request shorter. What is behind a request in its body is passed over.
package wire
