//go:build exam

package netns

// examCarriers are those that pass through the hostile networks in the exam only.
var examCarriers = []carrierUnderTest{
	{"quic", "quic://:2003", "quic://" + hostileGateway + ":2003"},
	{"ssh", "ssh://:2022", "ssh://" + hostileGateway},
}
