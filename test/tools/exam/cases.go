package main

// A testCase is one line of the exam.
type testCase struct {
	id, what string
	// later says why there is no test yet, or what of the case its tests leave out. A case without
	// it has to have a test.
	later string
}

// What has to come first.
const laterClusters = "several gateways"

// cases are those of the groups M, P, R, S, F, U, C, L, A and H.
var cases = []testCase{
	{"M1", "arbitrary bytes into the framer, in arbitrary chunks", ""},
	{"M2", "streams whole, byte by byte and split at random give the same packets", ""},
	{"M3", "control packets with wrong lengths and garbage in free fields", ""},
	{"M4", "header length and total length that contradict each other", ""},
	{"M5", "a header says 65,535 bytes, and then silence", ""},
	{"M6", "IPv6: router solicitations, jumbograms, empty packets", ""},
	{"M8", "a control packet with a header of 24 bytes", ""},
	{"M9", "a local process with a raw socket on the client's TUN", ""},
	{"M11", "0x16 and junk; a hello byte by byte; 64 KiB of hello; TLS 1.2", ""},
	{"M13", "names and errors with control characters, turned text, 1 MiB", ""},
	{"M14", "the decoder of each carrier: no allocation by a claimed size", ""},

	{"P1", "data before an address, and before authentication", ""},
	{"P2", "1,000 dynamic requests on one connection", ""},
	{"P3", "static: in use, outside the prefix, the gateway's, network, broadcast", ""},
	{"P4", "a static request for an address that another client uses or may resume", ""},
	{"P5", "dynamic, then static, then dynamic", ""},
	{"P6", "a million keepalives whose echoes nobody reads", ""},
	{"P8", "a 2013 client sends from an address it never asked for", ""},
	{"P9", "authentication takes 5 s; requests and data come meanwhile", ""},
	{"P13", "random sequences of events against a model", ""},

	{"R1", "10,000 connections that never speak", ""},
	{"R2", "a byte every 5 s in hello, frame, HTTP header", ""},
	{"R3", "a client stops reading while 200 Mbit/s flow to it", ""},
	{"R4", "one source asks for 65k addresses; then 2,100 sources for 31 each", ""},
	{"R6", "5,000 stalled clients in 256 MiB", ""},
	{"R7", "2,000 hellos a second of 1 and of 200 sources", ""},
	{"R8", "a flood of SYNs", ""},
	{"R10", "a storm of broadcasts and multicasts", "copies to all, where that is configured: there is no such setting"},
	{"R11", "60,000 first fragments", ""},
	{"R13", "100,000 connections that fail, and that work, per carrier", "vsock; more than 2,500 by each carrier but tcp, unix and tls, 1,000 by dns: they take long"},
	{"R14", "a WebSocket deflate bomb, capsules that claim 2^62 bytes, 1 GiB of HTTP body", ""},
	{"R15", "by udp, icmp and dns goes no more to an address than came from it, until it is proven", ""},

	{"S1", "inner sources that the client does not have", ""},
	{"S3", "to the gateway's own addresses, its loopback, its metadata service", ""},
	{"S4", "client to client, with isolate and without", ""},
	{"S5", "to a free address of the pool, TTL 255", ""},
	{"S7", "two gateways each think that the other one owns X", laterClusters},
	{"S9", "somebody in the client's LAN sends to its tunnel address", ""},
	{"S10", "two clients behind NAT with the same port and the victim's tuple", "the pool's own egress address"},
	{"S11", "a gateway that pushes what the client's policy does not name", ""},
	{"S12", "/32 and /1 routes appear on the client's outer interface", ""},
	{"S13", "the LAN claims a public prefix; the gateway's name leads to a victim", ""},
	{"S14", "full tunnel with IPv4 alone: IPv6 is blocked", ""},
	{"S15", "uid 65534: control socket, key file, TUN; no secret in arguments", ""},

	{"F1", "kill -9 of the gateway under load", ""},
	{"F2", "kill, or power loss, at each step of a lease save", ""},
	{"F3", "ENOSPC, EIO on fsync, EROFS", ""},
	{"F4", "a lease file with each byte flipped, cut at each offset", ""},
	{"F6", "silent drop both ways for 20 s and for 120 s", ""},
	{"F8", "loss, 1 Mbit/s, jitter, reordering", "jitter and reordering of TCP: this kernel has no netem"},
	{"F9", "the TUN is deleted under load", ""},
	{"F11", "the TUN is moved to another namespace; the namespace is deleted", ""},
	{"F13", "the MTU changes at run time; DF packets that are too big", ""},
	{"F15", "the wall clock jumps by a year and by an hour", ""},
	{"F16", "suspend and resume", "KVM"},
	{"F17", "the gateway is killed for want of memory", ""},
	{"F18", "fsync takes long", "30 s: it takes 6 s in the test"},
	{"F19", "the store is out of reach, in the minority, or paused", laterClusters},
	{"F20", "the gateway's name changes its address; DNS is down", ""},

	{"U1", "SIGTERM leaves the host as it was", ""},
	{"U3", "a resume token of another, used, expired, guessed", "used twice: a token is good for its lease as long as that lives"},
	{"U4", "resume 100 times", ""},
	{"U5", "resume on a second gateway while the first is paused", laterClusters},
	{"U6", "files of an earlier and a later version, and with unknown fields", ""},
	{"U7", "a peer is removed", ""},

	{"C6", "plain on a listener for TLS, TLS on one for plain; no fallback", ""},
	{"C7", "clients with and without keys together", ""},

	{"L1", "10,000 clients, a packet a second each, churn", "24 h: EXAM_SOAK says how long"},
	{"L2", "500 joins a second", "1 h: EXAM_JOINS says how long"},
	{"L3", "restart with 10,000 clients", ""},

	{"A1", "no key, a wrong one, one of another kind, another's", "each check turned over: make mutate"},
	{"A2", "10,000 guesses of an invitation's secret", ""},
	{"A3", "TLS 1.2, RSA of odd sizes, a chain of 256 KiB, renegotiation", ""},
	{"A6", "what the process that reads strangers' bytes may do", ""},
	{"A7", "no descriptors are inherited by helpers", ""},

	{"H1", "another Host, an Origin, another user, TCP", ""},
	{"H2", "every route without credentials; ids that are paths", ""},
	{"H3", "slow, huge and many requests", ""},
	{"H4", "forwarding to loopback, metadata, what is no client", ""},
	{"H7", "metrics and dumps have no secrets and bounded labels", ""},
}
