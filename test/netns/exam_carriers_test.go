//go:build exam

package netns

import "time"

// examCarriers are those that pass through the hostile networks in the exam only.
var examCarriers = []carrierUnderTest{
	{"quic", "quic://:2003", "quic://" + hostileGateway + ":2003"},
	{"ssh", "ssh://:2022", "ssh://" + hostileGateway},
}

// resolverOutage is how long nobody answers questions: other tunnels through resolvers are dead after a minute.
const resolverOutage = 90 * time.Second
