package gatewaytest_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// The system would give such a port to the next outgoing connection.
func TestNoPortOfOutgoingConnections(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	require.NoError(t, err)
	var low, high uint16
	_, err = fmt.Sscan(string(text), &low, &high)
	require.NoError(t, err)
	for range 100 {
		addr, err := netip.ParseAddrPort(gatewaytest.FreeAddr(t))
		require.NoError(t, err)
		require.True(t, addr.Port() < low || addr.Port() > high, "%v is between %d and %d", addr, low, high)
	}
}
