// Package rawvpn is a client for tests, which sends whatever a test wants: right packets and wrong
// ones, whole or in pieces, from any source, at any time. It shares no code with the programs that it
// tests: its framing (item.go), its control packets (ask.go) and its checksums (packet.go) are its own,
// so that a fault there is not on both sides.
//
//	Client      one connection
//	Load        thousands of them, each a peer of all others; test/tools/rawvpn is its command line
//
// Every read and write has a deadline, Client.Timeout. It is for Linux and for tests only.
package rawvpn
