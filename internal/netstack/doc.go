// Package netstack is the network behind a gateway that has no rights: a port of the router which ends the clients' connections
// in this process, and goes on with sockets of its own (gVisor's TCP and IP, https://gvisor.dev).
//
//	             +-- TCP: SYN --> dial; connected? --> SYN-ACK, then bytes both ways --> socket
//	Send(run) ---+-- UDP ------> a flow: socket of its own, replies to the flow's client
//	             +-- ICMP echo -> a flow: ping socket
//	Run <--------- outbox <----- segments, replies, errors
//
// The rules are:
//
//   - Who is refused there is refused here: the destination is dialled first, and a SYN answered when that has succeeded. A
//     destination that is silent stays silent.
//   - Nothing waits in Send: a dial is a goroutine of its own, of which there is a bounded number, in all and for one client.
//   - Every table is bounded. When one is full, an entry gives way that was idle for long, of the client that has most: who has an address of the pool, with
//     all that he routes.
//   - A hop is a hop: what is carried on has a TTL that is one less, and errors of routers behind the gateway come back.
//   - An end of a direction is passed on alone (half-close), and so is a reset.
//   - Where packets may go is the router's decision, before they come here.
//
// Memory: a connection that is idle has two goroutines and no buffer. One whose ends do not read what comes holds up to maxWindow each way, out of one
// budget of all (memory.go): of an Exit, of a Local, of a Neighbour (group.go).
package netstack
