// Package publish decides which services of a device others reach by ports of the gateway's host, and by which: both ends of it.
//
//	device:   sockets --What--> --Debounce--> services --- publish frame --->
//	gateway:  --- publish frame ---> services --Bridges--> --Ports--> ports of the host --> vpn_bridges.csv, endpoints.txt, endpoints.json
//
// The rules of ports are those of Penguin's VPN plugin, less its bugs:
//
//   - A fixed map counts, or nothing: whoever has its port is an error, and no other one is taken.
//   - Else the port that the service had before; its own number; that in strides of 1000; the same for each of 65 numbers behind it; any that is free.
//   - TCP and UDP do not know of one another. Whether a port is free says binding it.
//   - What is not announced any more is gone, from the files, too.
//
// The package is pure: it binds nothing, reads no clock and writes no file.
package publish
