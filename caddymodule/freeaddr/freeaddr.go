// Package freeaddr finds addresses for the servers that tests and benchmarks
// start.
package freeaddr

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports below those that systems give to outgoing connections (Linux 32768 to
// 60999, others from 49152), so that a server finds its port free although
// others make connections between the choice and its start, or its restart.
const (
	first = 12_000
	ports = 20_000
)

// Find returns an address of 127.0.0.1 that nobody listens on just now.
func Find() (string, error) {
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+rand.N(ports)))
		if err != nil {
			continue // taken, most likely
		}
		addr := l.Addr().String()
		if err := l.Close(); err != nil {
			return "", fmt.Errorf("finding a free port: %w", err)
		}
		return addr, nil
	}
	return "", errors.New("no port is free")
}
