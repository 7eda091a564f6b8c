// Package packet looks at IP packets: header views, checksums, the virtio-net header that a kernel
// puts before a packet it left unfinished, and what it takes to finish one: segmentation,
// fragmentation, the ICMP error for what can not be fragmented. It does no I/O and keeps nothing.
//
// A kernel hands over up to 64 KiB of one TCP or UDP flow as a single packet, together with a note
// of what it did not do (struct virtio_net_hdr, include/uapi/linux/virtio_net.h; here always little
// endian, see Offload):
//
//	  0       1         2         4         6            8             10 bytes
//	+-------+---------+---------+---------+------------+-------------+
//	| Flags | GSOType | HdrLen  | GSOSize | CsumStart  | CsumOffset  |
//	+-------+---------+---------+---------+------------+-------------+
//	  |       |         |         |         |            the checksum field, from CsumStart
//	  |       |         |         |         first byte that the checksum covers
//	  |       |         |         payload bytes of each segment but the last
//	  |       |         bytes of IP and TCP or UDP header together
//	  |       what kind of super-packet
//	  NeedsCsum: the field holds only the sum of the pseudo-header
//
// Such a super-packet becomes the segments that the kernel would have made of it:
//
//	[IP|TCP][------------------- payload -------------------]
//	 HdrLen    GSOSize       GSOSize       GSOSize     rest
//	[IP|TCP][---------][IP|TCP][---------][IP|TCP][---------][IP|TCP][----]
//	 id, seq            id+1, seq+GSOSize                     id+3, FIN, PSH
//	 CWR
//
// The rules are:
//
//   - Check comes first. Its result, and not what was claimed, is what every other function takes;
//     on a packet that did not pass they may panic.
//   - The caller owns all buffers. Append functions write behind dst alone, which must not overlap
//     the packet, and allocate only when dst has no room. None keeps a slice.
//   - Checksums of received packets are not verified: the kernel or host that gets them does that.
//
// Limits: a super-packet has at most MaxSegments segments of at least MinGSOSize bytes. An IPv6
// packet with extension headers can have a checksum completed but is no super-packet, and IPv6 is
// never fragmented (RFC 8200, section 5, leaves that to the source). UFO, GSO type 3, is refused:
// Linux gave it up in 4.14, and a TUN hands it over only when asked to.
package packet
