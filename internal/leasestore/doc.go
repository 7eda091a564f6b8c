// Package leasestore keeps the leases of an address pool on disk, in a directory of its own:
//
//	lock            held by the process that uses the directory (flock)
//	leases.log      header, then one record for each event
//	leases.new      a snapshot in the making; renamed to leases.log when it is complete and on disk
//	leases.damaged  the last leases.log that could not be read to its end, kept for whoever asks why
//
//	header   "ferrylog"  version 4  CRC-32C of both 4
//	record   length 2  kind 1  address 4  token 16  name 0..255  CRC-32C of all before 4
//
// Numbers are little endian; length counts the whole record. A grant replaces what was known of its
// address, a free removes it. Snapshot and log are one file, so no crash can mix two generations of them.
//
// Tokens are stored as they are, not hashed, for the pool compares tokens: the files have mode 0600, and a
// directory that is made 0700.
//
// The rules are:
//
//   - Append only queues. Wait returns when the events are on disk (fsync), and one fsync serves all
//     who wait: group commit.
//   - After a write or fsync that failed nobody knows what is on disk. The file is never appended to
//     again: a snapshot of all that is known replaces it, and until that has succeeded every Wait
//     fails with ErrUnavailable. It is tried once a second, when somebody asks.
//   - When the log is much longer than what it says, a snapshot replaces it.
//   - Reading takes the records up to the first bad one. A file of a later version is not touched.
//
// One goroutine owns the file; Close waits for it.
package leasestore
