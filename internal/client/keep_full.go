//go:build !minimal

package client

// DefaultKeep is how many bytes are kept until the gateway has them.
const DefaultKeep = 8 << 20
