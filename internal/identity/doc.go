// Package identity says who is who. Everybody has an Ed25519 key; there are no certification
// authorities, no names in certificates and no dates:
//
//	Key      32 secret bytes, in a file that only its owner reads (PKCS #8 in PEM)
//	Public   what others write down: 32 bytes in base64, as WireGuard shows keys
//	Pin      SHA-256 of the public key as X.509 encodes it (SPKI, RFC 7469): what people compare
//
// The two ends of a connection prove their keys in a TLS 1.3 handshake (Key.Server, Key.Client), with
// self-signed certificates that are nothing but envelopes. Each checks that the key in the other's
// certificate is one that it knows. Nothing is trusted on first use: a device learns its gateway's pin
// from an Invitation, which its owner carries to it, and a gateway learns a device's key from its owner
// or from the secret of the invitation.
//
// The rules are:
//
//   - TLS 1.3 only; no session tickets, no 0-RTT, no renegotiation: every connection proves its keys.
//   - A pin is computed from the parsed key, never from bytes as they came: a key has one pin.
//   - Dates are not looked at: a device may have no clock. What ends a key is its owner.
package identity
