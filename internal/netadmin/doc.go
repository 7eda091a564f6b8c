// Package netadmin is the process that has CAP_NET_ADMIN, so that the one which reads strangers' bytes
// need not have it:
//
//	vpnsrv, vpncli                                   ferry-netadmin (the same program, started anew)
//	  no capabilities, no files, no sockets of        CAP_NET_ADMIN
//	  its own: see package confine
//	  Client  ---- a question, one at a time ---->    admin: TUN, addresses, routes, rules, nft, sysctls, name servers,
//	          <--- the answer, with a descriptor --          a marked socket, one that listens or dials a client,
//	                                                 a unix connection, a file that was named
//	          <--- what others did to the link ----
//
// Each is a message of JSON on a socket pair that keeps messages apart (SOCK_SEQPACKET). What may be asked
// is fixed by the first message, Rules, which the client sends before it gives its rights up: the name
// of the interface, the mark of sockets, the paths. When the client has ended, the process takes
// back what was done to the host, and ends too; but the full tunnel of a client that was killed stays, to
// let nothing out beside it.
//
// Signals that stop the client do nothing here: it is the client that says when.
package netadmin

import (
	"net/netip"

	"ferry/internal/hostnet"
	"ferry/internal/policy"
)

// Rules say what a client may ask for. They do not change.
type Rules struct {
	Program string   // whose process this is: vpnsrv or vpncli
	TUN     string   // name of the interface
	MTU     int      // of the interface until a State says another, bytes
	Mark    uint32   // of the sockets that are asked for; 0: none may be
	Pings   bool     // sockets for ICMP echo are among them
	Echo    uint32   // how the payload of ICMP echoes begins that a State may name; 0: it names none
	Connect []string // paths of unix sockets that may be connected to
	Remove  []string // paths of unix sockets that are removed at the end, if nobody listens there
	Read    []string // paths of files that may be read
	Write   []string // paths of files that may be replaced
	Open    []string // paths of files that may be replaced, and that everybody may read
	Forward bool     // sockets may be asked for that listen, and that connect to what is behind the interface
	Inside  bool     // with Forward: those that listen are at the address of the interface, and nowhere else
	Names   bool     // of programs may be asked for, by their sockets, which takes a look into every process
	Sockets []string // directories in which unix sockets may be made that listen

	Addr   netip.Prefix   // of the interface of a gateway
	Routes []netip.Prefix // that its operator has named
	Table  int            // of a device's full tunnel
	Policy *policy.Rules  // what the owner of a device has agreed to; nil: this is a gateway

	LogFormat string
	LogLevel  string
}

// Questions.
const (
	opTUN     = "tun"     // -> TUN and its descriptor
	opApply   = "apply"   // State ->
	opWatch   = "watch"   // -> and events from then on
	opUndo    = "undo"    // ->
	opSocket  = "socket"  // Arg: a network of package net; To: where to -> a descriptor
	opConnect = "connect" // Arg: a path -> a descriptor
	opListen  = "listen"  // Arg: tcp, udp or unix; To: where -> a descriptor
	opDial    = "dial"    // Arg: tcp or udp; From: an address of this host, or nothing; To: of a client -> a descriptor
	opRemove  = "remove"  // Arg: a path that was listened on ->
	opFlows   = "flows"   // Arg: addresses of clients -> Tracked
	opRead    = "read"    // Arg: a path -> the descriptor of the file
	opNames   = "names"   // Inodes -> Names
	opWrite   = "write"   // Arg: a path of Write or Open; Data ->
)

type question struct {
	Op    string         `json:"op"`
	Arg   string         `json:"arg,omitempty"`
	To    string         `json:"to,omitempty"`
	From  string         `json:"from,omitempty"`
	Data  []byte         `json:"data,omitempty"`
	State *hostnet.State `json:"state,omitempty"`
	// Inodes of sockets.
	Inodes []uint32 `json:"inodes,omitempty"`
}

// An answer answers the question before it, or is an event by itself.
type answer struct {
	Event *hostnet.Event `json:"event,omitempty"`
	Error string         `json:"error,omitempty"`
	Errno uintptr        `json:"errno,omitempty"` // the cause of Error, where it is one of the kernel's
	TUN   *link          `json:"tun,omitempty"`

	Tracked *tracked `json:"tracked,omitempty"`
	// Names of the programs that have sockets, by inode.
	Names map[uint32]string `json:"names,omitempty"`
}

// A link is what there is to know of a tun.Interface.
type link struct {
	Name  string `json:"name"`
	Index int    `json:"index"`
	USO   bool   `json:"uso"`
}
