package gatewaytest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// Ports below those that systems give to outgoing connections (Linux 32768 to
// 60999, others from 49152), so that a server finds its port free although
// others make connections between the choice and its start, or its restart.
const (
	firstPort = 12_000
	ports     = 20_000
)

// FreeAddr returns an address of 127.0.0.1 that no server listens on.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	addr, err := FindAddr()
	require.NoError(tb, err)
	return addr
}

// FindAddr is FreeAddr outside of a test.
func FindAddr() (string, error) {
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", firstPort+rand.N(ports)))
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
