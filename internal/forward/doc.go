// Package forward carries connections and datagrams from one side to another: ports of clients that a gateway publishes, and forwards of a device as ssh
// has them.
//
//	tcp://:8080          accept --> dial 10.0.3.4:80 --> [PROXY header] --> bytes both ways
//	unix:///run/x.sock   the same
//	udp://:53            a flow for each source: a socket of its own, replies to its source
//
//	near: who comes  <-- Network.Listen -- a Forward -- Network.Dial -->  far: the client
//
// The rules are:
//
//   - Who is refused there is reset here. A listener has accepted before anybody can know, so that is the nearest to a refusal that there is.
//   - An end of a direction is passed on alone (half-close), and so is a reset.
//   - A datagram keeps its length, both ways. A reply comes from the address that was asked.
//   - Each forward has a bounded number of connections, or flows. A connection too many is reset; of flows the one gives way whose source was
//     silent for longest.
//   - What is at the path of a unix socket is removed only if it is a socket where nobody listens.
//
// Goroutines, each waited for by Close or Remove: two per forward, of which one accepts, or reads datagrams, and one waits for the end; two per connection, one per flow. A connection that moves
// nothing holds no buffer.
package forward
