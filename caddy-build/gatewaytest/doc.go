// Package gatewaytest runs the real wxgate binary for tests: on loopback,
// between a sandbox WeChat and an upstream that keeps the raw bytes it received.
//
// What a test asserts on is what the upstream saw. The status alone proves
// little: Caddy answers 200 for a route without a handler.
package gatewaytest
