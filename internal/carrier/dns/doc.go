// Package dns is the carrier over queries of DNS.
package dns
