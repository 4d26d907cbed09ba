package redistest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// StartCluster runs a Redis Cluster of masters without replicas. It takes
// three at least.
func StartCluster(t testing.TB, masters int, directives ...string) []*Server {
	t.Helper()
	var servers []*Server
	create := []string{"--cluster", "create"}
	for range masters {
		s := Start(t, append([]string{
			"cluster-enabled yes",
			"cluster-config-file nodes.conf",
			"cluster-node-timeout 2000",
		}, directives...)...)
		servers = append(servers, s)
		create = append(create, s.Addr)
	}
	servers[0].Do(t, append(create, "--cluster-replicas", "0", "--cluster-yes")...)
	for _, s := range servers {
		gatewaytest.Eventually(t, func() bool {
			return strings.Contains(s.Do(t, "cluster", "info"), "cluster_state:ok")
		}, "the cluster is complete")
	}
	return servers
}

// Reshard moves slots with their keys from one master to another.
func Reshard(t testing.TB, from, to *Server, slots int) {
	t.Helper()
	from.Do(t, "--cluster", "reshard", from.Addr, "--cluster-yes",
		"--cluster-from", from.Do(t, "cluster", "myid"),
		"--cluster-to", to.Do(t, "cluster", "myid"),
		"--cluster-slots", fmt.Sprint(slots))
}

// A Replicated is a master with a replica, watched by Sentinels.
type Replicated struct {
	Master    *Server
	Replica   *Server
	Sentinels []*Server
}

// SentinelMaster is the name by which the Sentinels of StartSentinel know
// their master.
const SentinelMaster = "wxgate-test"

// StartSentinel runs a master, a replica and three Sentinels that make the
// replica the master when the master has been silent for a second.
func StartSentinel(t testing.TB, directives ...string) *Replicated {
	t.Helper()
	r := &Replicated{Master: Start(t, directives...)}
	master := fmt.Sprintf("127.0.0.1 %d", port(r.Master.Addr))
	r.Replica = Start(t, append([]string{"replicaof " + master}, directives...)...)
	gatewaytest.Eventually(t, func() bool {
		return strings.Contains(r.Replica.Do(t, "info", "replication"), "master_link_status:up")
	}, "the replica is in step")
	for range 3 {
		r.Sentinels = append(r.Sentinels, start(t, nil, sentinel, []string{
			"sentinel monitor " + SentinelMaster + " " + master + " 2",
			"sentinel down-after-milliseconds " + SentinelMaster + " 1000",
			"sentinel failover-timeout " + SentinelMaster + " 5000",
		}))
	}
	for _, s := range r.Sentinels {
		gatewaytest.Eventually(t, func() bool {
			state := s.Do(t, "sentinel", "master", SentinelMaster)
			return strings.Contains(state, "\nnum-slaves\n1\n") && strings.Contains(state, "\nnum-other-sentinels\n2\n")
		}, "the Sentinels know the replica and each other")
	}
	return r
}

// SentinelAddrs returns the addresses of the Sentinels.
func (r *Replicated) SentinelAddrs() []string {
	var addrs []string
	for _, s := range r.Sentinels {
		addrs = append(addrs, s.Addr)
	}
	return addrs
}

func port(addr string) uint16 { return netip.MustParseAddrPort(addr).Port() }
