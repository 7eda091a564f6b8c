// Package session is the negotiation at the start of a connection, both halves of it: what a client
// asks for, what the gateway grants, which extensions they agree upon. It is pure: bytes come in,
// bytes to send and what was agreed come out; who gets which address is decided elsewhere.
//
//	client                                            gateway
//	Ask ----- request (offer) [hello] ------------->  Request, Hello -> Ask complete
//	                                                  ... a lease is granted and written to disk ...
//	Reply <--- reply (answer) [config] -------------  Answer
//	Config
//
// A 2013 client sends a request without an offer, a 2013 server a reply without an answer; then
// nothing but 2013 is spoken. A refusal is a goodbye frame for a client that offered to understand
// it, and no bytes for a 2013 client; the connection is closed in either case.
package session
