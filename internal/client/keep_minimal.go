//go:build minimal

package client

// DefaultKeep is how many bytes are kept until the gateway has them: less, on small devices.
const DefaultKeep = 1 << 20
