// Package peerstore knows the devices that may join: names, keys, addresses, the networks behind them,
// and the invitations that are open. It keeps them in one file, which is written anew, whole, at each
// change; there are few, made by people.
//
//	invite NAME ──▶ invitation ──▶ Redeem with the secret and a key ──▶ peer ──▶ disabled / removed
//	                    │ expires, or is replaced by another of the name
//	peer add NAME KEY ─────────────────────────────────────────────────▶ peer
//
// The rules are:
//
//   - A name, a key, an address and a route each belong to one peer.
//   - An address is never one of the plain clients' part of the pool.
//   - Of a secret the file has a hash alone. An invitation is for one key: the first that shows the
//     secret. The same key may show it again until it expires, for the answer may have been lost.
//   - What was answered is on disk; when the disk fails nothing has changed.
package peerstore
