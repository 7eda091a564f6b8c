// Package dns is the carrier over questions of DNS: the gateway is the name server of a zone, and a device asks for names below it, through any resolver,
// or the gateway itself. Package datagram makes a connection of that, over package polling, for a gateway can only answer.
//
//	device ── UDP, TCP ──▶ resolver ── UDP, TCP ──▶ gateway
//	  asker                 anybody's                gate, authority
//
//	question   TXT of  base32( [length of all 1][test 1 bit][client 39 bits][number 4][datagram] ), in labels of 63 . zone
//	answer     TXT     [0][held for ms 2][datagram]
//	test       a question with [length 2] in the place of the datagram
//	           TXT     [1][as many bytes]
//
// Letters of names are of any case. A question carries 137 bytes below t.example.org, fewer below longer names; an answer 900, which
// with the longest name is less than the 1232 bytes that pass everywhere; 208 where only 512 pass. The datagram of either may be missing. A number is never used
// again by a client, so nothing is answered out of a cache; times to live are 0.
//
// The rules are:
//
//   - A client is the number in its questions, wherever they come from: a resolver has many addresses.
//   - By UDP nobody is sent more than came from there, unless that client has come from that network (/24, /48) by TCP. Who has not is told
//     to, by the bare question with TC set, which resolvers follow; so a stranger who lies about his address is no client, and takes no memory.
//   - The same question again, for resolvers ask so, has the same answer; what a connection does not know any more, an empty one.
//   - Answers that do not fit are left to TCP in the same way.
//   - What is no name of a client is answered as the authority of the zone does (authority.go), so that resolvers find nothing wrong.
//
// What strangers can make a gateway hold: 256 connections of TCP, of which the most silent goes for a new one, 32 of a network, for 10 s of silence, each with 9 KiB and
// answers that nobody reads, 32 of at most 4 KiB, beside which nothing more is read;
// 4096 clients of 0.5 KiB, of whom those who were given no datagram for a minute go first, and 16 MiB of answers that may be asked for again; 256 questions of
// 0.7 KiB that wait to be read; and what packages polling (11 MiB of questions, if 4096 clients have 8 each) and datagram hold.
package dns
