package redistest

import (
	"fmt"
	"strings"
	"testing"
	"time"

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
			fmt.Sprintf("cluster-port %d", port(t, gatewaytest.FreeAddr(t))),
		}, directives...)...)
		servers = append(servers, s)
		create = append(create, s.Addr)
	}
	create = append(create, "--cluster-replicas", "0", "--cluster-yes")
	if out, err := gatewaytest.Command(t, "redis-cli", create...).CombinedOutput(); err != nil {
		t.Fatalf("creating cluster: %v: %s", err, out)
	}
	for _, s := range servers {
		await(t, "the cluster to be complete", func() bool {
			return strings.Contains(s.Do(t, "cluster", "info"), "cluster_state:ok")
		})
	}
	return servers
}

// Reshard moves slots with their keys from one master to another.
func Reshard(t testing.TB, from, to *Server, slots int) {
	t.Helper()
	args := []string{
		"--cluster", "reshard", from.Addr, "--cluster-yes",
		"--cluster-from", from.Do(t, "cluster", "myid"),
		"--cluster-to", to.Do(t, "cluster", "myid"),
		"--cluster-slots", fmt.Sprint(slots),
	}
	if out, err := gatewaytest.Command(t, "redis-cli", args...).CombinedOutput(); err != nil {
		t.Fatalf("moving slots: %v: %s", err, out)
	}
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
	masterPort := port(t, r.Master.Addr)
	r.Replica = Start(t, append([]string{fmt.Sprintf("replicaof 127.0.0.1 %d", masterPort)}, directives...)...)
	await(t, "the replica to be in step", func() bool {
		return strings.Contains(r.Replica.Do(t, "info", "replication"), "master_link_status:up")
	})
	for range 3 {
		r.Sentinels = append(r.Sentinels, start(t, sentinelMode, nil, []string{
			fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 2", SentinelMaster, masterPort),
			"sentinel down-after-milliseconds " + SentinelMaster + " 1000",
			"sentinel failover-timeout " + SentinelMaster + " 5000",
		}))
	}
	for _, s := range r.Sentinels {
		await(t, "the Sentinels to know the replica and each other", func() bool {
			state := s.Do(t, "sentinel", "master", SentinelMaster)
			fields := strings.Split(state, "\n")
			return field(fields, "num-slaves") == "1" && field(fields, "num-other-sentinels") == "2"
		})
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

// field returns the line that follows name.
func field(lines []string, name string) string {
	for i := range len(lines) - 1 {
		if lines[i] == name {
			return lines[i+1]
		}
	}
	return ""
}

// await polls what cannot be waited for otherwise.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("waited %s for %s", startTimeout, what)
		}
	}
}
