// Package failover decides by which carrier a client reaches its gateway now. It does no I/O and reads no clock: events
// and the time go in; actions, each with its reason in words, and the next deadline come out.
//
// A Way is a way to the gateway that may be tried: an address by a carrier. A path is a connection by a way that is
// attached to the session. One path is in use; another one, of a different class, stands by where there is one.
//
// A path:
//
//	         Dialed               full-size echo answered           Use
//	dialling ------> testing ---------------------------> ready <--------> in use
//	   |                |                                   |                |
//	   | Failed         | no answer                         | silent         | silent while traffic is due
//	   v                v                                   v                v
//	 (gone)           (gone)              heard again <-- suspect ------> dead: penalised, (gone)
//	                                                        three echoes unanswered, or at once: Lost
//
// The machine:
//
//	          +------ all have failed: a pause, 0.2 s doubling to 30 s, -----+
//	          |               or to 5 s while traffic is due                 |
//	          v                                                              |
//	New --> race: one way after the other, the next one when one fails  -----+
//	          ^   or after a quarter of a second
//	          |        | a path is ready, and none of a better class has come within two round trips
//	          |        v
//	 no path  +---- steady: in use + standby ----- every 30 s: dial what is better, watch it for 10 s ----> Use
//	 is left           | the path in use is silent or lost
//	                   v
//	                Use(standby, again), and a copy to the suspect until it answers or is dead
//
// The rules are:
//
//   - Nothing is in use before an echo of full size has come back by it: a way that attaches and then carries only small
//     packets, or none, costs a test and not the user's connection.
//   - What changed by need (a path is dead or silent) is done at once. What changes for the better waits until the better
//     one was clean for 10 s, and for 30 s since the last such change; the 10 s grow with the penalty of a way that
//     dies again and again, so that it is not gone back to each time.
//   - Silence means something only while three frames or an echo wait, and an echo is sent twice: one that is lost is not the
//     end of a path. What answers echoes twice while no frame is acknowledged is left.
//   - A path that has won a race is believed after 5 s; until then the others are not given up, or a quick liar would win each one.
//   - At most two voluntary changes in 5 minutes may turn out to be mistakes.
//   - Nothing is sent while nothing is due, but for a small echo when a path was silent for 15 s. Ways are not tested
//     for an idle session either, but with the first traffic after it.
//   - Each path and way has a bounded state, and each attempt ends: no event is needed for the machine to go on.
//
// The shell calls Next after each event and at the deadline that it returned last, and carries out the actions in order.
// It need not call anything per packet: Saw and Due want what the streams and the sender know anyway, before each Next, and
// Due when traffic begins to wait for an acknowledgement after a time without.
package failover
