// Package ether is what an Ethernet looks like to a machine whose only neighbour is a gateway of layer 3. It does no I/O and
// reads no clock: frames go in, and out come the packets in them and the frames that answer.
//
//	 machine --frame--> Port.In --> Packet   0x0800 to the gateway's MAC: the IPv4 packet in it, for the router
//	                            --> Reply    ARP "who has", DHCP with a lease: the frame that answers
//	                            --> Ask      DHCP without a lease: one is wanted; Port.Assign answers with it
//	                            --> Dropped  all else, counted by reason
//	machine <--frame-- Port.AppendFrame <-- a packet from the router
//
//	frame   destination 6  source 6  type 2  payload          no FCS, no virtio header, no 802.1Q
//
// The rules are:
//
//   - Every address of the pool but the machine's own is the gateway (proxy ARP, RFC 1027): so machines reach each other, and other
//     clients, by routing. For its own address nobody answers: neither when it asks whether somebody has it (RFC 5227, section
//     2.1.1) nor when it says that it has it, or it would take that for a conflict.
//   - DHCP (RFC 2131) offers the one address that the gateway leases to the machine, and refuses (NAK) all others. The lease lives
//     as long as the connection; RELEASE gives nothing back, for who asks again on the same connection is the same machine.
//   - The machine is where its IP address speaks from: the last frame with that as its source names the MAC to which frames go.
//   - Which sources are believed is not decided here but by the router, as for every other client.
//   - Nothing is kept of a frame, nothing is allocated for one. No length in it is believed before it was compared.
package ether
