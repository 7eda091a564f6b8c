// Package filter decides which packets a capture keeps, by expressions in the language of tcpdump (pcap-filter(7)), as far as it is about what a gateway
// carries:
//
//	expression  primitive | not expression | expression and expression | expression or expression | ( expression )
//	primitive   [PROTO] [DIR] host 10.0.3.4         PROTO  ip
//	            [PROTO] [DIR] net 10.0.0.0/16       also 10.0, and 10.0.0.0 mask 255.255.0.0
//	            [PROTO] [DIR] port 80               PROTO  tcp, udp, sctp
//	            [PROTO] [DIR] portrange 8000-8080
//	            ip, tcp, udp, icmp, igmp, sctp, ah, esp
//	            [ip] proto 47                       a number, or one of the names above
//	            less 100, greater 1000              the length of the packet in bytes
//	DIR         src, dst, src or dst, src and dst
//
// The rules are those of pcap-filter(7):
//
//   - "not" (also "!") binds most tightly; "and" ("&&") and "or" ("||") bind alike, from left to right.
//   - What a value is, is taken from the one before where it does not say: "port 80 or 443", "src host (10.0.3.4 or 10.0.3.5)". An address alone is a host
//     or, with a slash, a net.
//   - Of fragments only the first has ports.
//
// Left out are names of hosts and services, IPv6, Ethernet, and comparisons of bytes as tcp[13] & 2 != 0. An expression has at most MaxLen bytes.
package filter
