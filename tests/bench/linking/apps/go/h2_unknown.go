//go:build !go1.24

package main

import "net/http"

// multiplexed is not known to this version.
func multiplexed() *http.Transport {
	panic("no HTTP/2 without TLS")
}
