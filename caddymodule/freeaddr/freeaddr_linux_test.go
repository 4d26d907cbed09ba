package freeaddr_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/freeaddr"
)

// The system would give such a port to the next connection that anybody makes.
func TestNoPortOfOutgoingConnections(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	require.NoError(t, err)
	var low, high uint16
	_, err = fmt.Sscan(string(text), &low, &high)
	require.NoError(t, err)
	for range 100 {
		found, err := freeaddr.Find()
		require.NoError(t, err)
		addr, err := netip.ParseAddrPort(found)
		require.NoError(t, err)
		require.True(t, addr.Port() < low || addr.Port() > high, "%v is between %d and %d", addr, low, high)
	}
}
