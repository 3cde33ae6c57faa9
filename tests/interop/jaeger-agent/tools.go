//go:build tools

// Package tools names what go.mod is to provide.
package tools

import _ "github.com/jaegertracing/jaeger/cmd/agent"
