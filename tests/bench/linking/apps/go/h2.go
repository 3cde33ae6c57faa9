//go:build go1.24

package main

import "net/http"

// multiplexed sends all calls over one connection.
func multiplexed() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: protocols}
}
