// Package config makes the typed configurations of gateway and client out of what people write:
//
//	defaults <-- file (TOML) <-- flags        the right one wins
//	         \_____ keys _____/
//	                 |  Load: read, checked
//	                 v
//	  gateway.Config, client.Config
//
// The rules are:
//   - A key of the file has the name of its flag, with '_' for '-'. Some keys have no flag.
//   - Whatever is wrong is told in one line that begins with the place, --flag or file:line, and ends
//     with what to do. Only the first fault is told.
//   - An unknown key is a fault, never ignored: a misspelt "isolate" must not open a network.
//   - No file is read that --config did not name.
//   - This is the only package that reads files and environment for the sake of configuration.
package config
