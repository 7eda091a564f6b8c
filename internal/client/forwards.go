package client

// Forwards of a device, as ssh has them behind -L and -R:
//
//	-L  program --> socket of this device --> tunnel          open from the beginning until Run returns
//	-R  tunnel --> this device's address there --> service    opened with the first lease, and again with another one
//
// One that can not listen ends the program at its start, with -L; with -R it is told, and tried again with each connection.

// Sides of a forward.
const (
	SideLocal  = "local"  // -L
	SideRemote = "remote" // -R
)

// A ForwardPlace says where a forward listens and where it leads.
type ForwardPlace struct {
	Side  string `json:"side"`            // SideLocal or SideRemote
	From  string `json:"from"`            // as it was asked for
	Bound string `json:"bound,omitempty"` // where it listens, with the port that was found; empty: nowhere
	To    string `json:"to"`
	Err   string `json:"error,omitempty"` // why it does not listen
}

// A ForwardStatus is how a forward does.
type ForwardStatus struct {
	ForwardPlace
	Connections int    `json:"connections"` // there are; flows of udp
	Total       uint64 `json:"total"`       // there were
	Refused     uint64 `json:"refused"`     // connections too many, flows that gave way to others
	Failed      uint64 `json:"failed"`      // the target could not be reached
	Received    uint64 `json:"received"`    // bytes from the target, of what has ended
	Sent        uint64 `json:"sent"`        // bytes to the target, of what has ended
}
