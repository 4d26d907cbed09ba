package redisstore_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

func TestSentinelFailover(t *testing.T) {
	set := redistest.StartSentinel(t, "min-replicas-to-write 0")
	o := patient(set.SentinelAddrs()...)
	o.SentinelMaster = redistest.SentinelMaster
	o.Timeout = 2 * time.Second
	s := open(t, o)
	roundTrip(t, s)
	require.NoError(t, sessiontest.Put(t.Context(), s, "kept", []byte("value"), 0))
	require.Equal(t, "1", set.Master.Do(t, "wait", "1", "0"), "the replica has it")
	told := observe(t, s)
	_, err := s.Get(t.Context(), "kept")
	require.NoError(t, err)

	set.Master.Kill()
	begin := time.Now()
	awaitTold(t, told, "")
	requireFault(t, func() error { return sessiontest.Put(t.Context(), s, "other", []byte("v"), 0) })
	requireWorks(t, s)
	t.Logf("the new master serves after %s", time.Since(begin))

	// Changes at the new master are observed, too.
	_, err = s.Get(t.Context(), "kept")
	require.NoError(t, err)
	set.Replica.Do(t, "set", "wxgate:kept", "changed")
	awaitTold(t, told, "kept")
}

func TestSentinelPasswords(t *testing.T) {
	set := redistest.StartSentinel(t, "user gate on >treasure "+permissions+" +role")
	for _, s := range set.Sentinels {
		s.Do(t, "config", "set", "requirepass", "watchman")
	}
	var addresses []string
	for _, addr := range set.SentinelAddrs() {
		addresses = append(addresses, "redis://:watchman@"+addr)
	}
	o := patient(addresses...)
	o.SentinelMaster = redistest.SentinelMaster
	o.Username, o.Password = "gate", "treasure"
	roundTrip(t, open(t, o))

	o.Password = "wrong"
	_, err := redisstore.Open(t.Context(), o)
	require.ErrorContains(t, err, "WRONGPASS")
	require.NotContains(t, err.Error(), "watchman")
}

// One node of a cluster is gone or hangs. Its keys cannot be read, and those
// of the others can, without delay, however many calls wait for it.
func TestClusterNodeFails(t *testing.T) {
	faults := map[string]func(*redistest.Server){
		"killed": (*redistest.Server).Kill,
		"hung":   (*redistest.Server).Stop,
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			servers := redistest.StartCluster(t, 3, "cluster-require-full-coverage no")
			o := patient(servers[0].Addr, servers[1].Addr, servers[2].Addr)
			o.Timeout = time.Second
			s := open(t, o)
			var all, lost []string
			for i := range 100 {
				key := fmt.Sprint("session:", i)
				require.NoError(t, sessiontest.Put(t.Context(), s, key, []byte(key), time.Hour))
				all = append(all, key)
			}
			onLost := make(map[string]bool)
			for _, key := range strings.Fields(servers[2].Do(t, "keys", "*")) {
				key = strings.TrimPrefix(key, "wxgate:")
				onLost[key] = true
				lost = append(lost, key)
			}
			require.NotEmpty(t, lost)
			require.Less(t, len(lost), len(all))

			fault(servers[2])
			var waiting sync.WaitGroup
			for range 30 {
				for _, key := range lost {
					waiting.Go(func() { requireFaultOrNot(t, s, key) })
				}
			}
			for _, key := range all {
				if onLost[key] {
					continue
				}
				value, err := s.Get(t.Context(), key)
				require.NoError(t, err)
				require.Equal(t, key, string(value))
				require.NoError(t, sessiontest.Put(t.Context(), s, key, []byte(key), time.Hour))
				require.NoError(t, s.Update(t.Context(), key, func(old []byte) ([]byte, time.Duration, error) {
					return old, time.Hour, nil
				}))
			}
			waiting.Wait()
			require.Error(t, s.(session.Scanner).Scan(t.Context(), "", func(string, []byte, time.Duration) error { return nil }),
				"a scan that cannot see everything must not look complete")
			if name == "hung" {
				servers[2].Continue()
				require.Eventually(t, func() bool {
					value, err := s.Get(t.Context(), lost[0])
					return err == nil && string(value) == lost[0]
				}, recovery, 10*time.Millisecond)
			}
		})
	}
}

// requireFaultOrNot allows everything but being told that the key is absent.
func requireFaultOrNot(t *testing.T, s session.Store, key string) {
	if _, err := s.Get(t.Context(), key); isNotFound(err) {
		t.Errorf("%s is said to be absent", key)
	}
}

// same is a change that writes what is there, as a renewal does.
func same(old []byte) ([]byte, time.Duration, error) { return old, time.Hour, nil }

// While a slot moves, the node that has a key writes it, and does not lose it.
func TestWriteWhileASlotMoves(t *testing.T) {
	servers := redistest.StartCluster(t, 3)
	s := open(t, patient(servers[0].Addr))
	const key = "user:a"
	require.NoError(t, sessiontest.Put(t.Context(), s, key, []byte("value"), time.Hour))
	slot := servers[0].Do(t, "cluster", "keyslot", "wxgate:"+key)
	from := slices.IndexFunc(servers, func(r *redistest.Server) bool { return r.Do(t, "dbsize") == "1" })
	to := servers[(from+1)%3]
	to.Do(t, "cluster", "setslot", slot, "importing", servers[from].Do(t, "cluster", "myid"))
	servers[from].Do(t, "cluster", "setslot", slot, "migrating", to.Do(t, "cluster", "myid"))
	require.NoError(t, s.Update(t.Context(), key, same))
	value, err := s.Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, "value", string(value))
}

// Slots move from one node to another while they are in use.
func TestClusterReshards(t *testing.T) {
	servers := redistest.StartCluster(t, 3)
	writer, reader := open(t, patient(servers[0].Addr)), open(t, patient(servers[1].Addr))
	told := observe(t, reader)
	var keys []string
	for i := range 200 {
		key := fmt.Sprint("session:", i)
		keys = append(keys, key)
		require.NoError(t, sessiontest.Put(t.Context(), writer, key, []byte("0"), time.Hour))
	}
	stop := make(chan struct{})
	var working sync.WaitGroup
	for i, s := range []session.Store{writer, reader} {
		working.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				key := keys[(n*7+i)%len(keys)]
				if _, err := s.Get(t.Context(), key); isNotFound(err) {
					t.Errorf("%s is said to be absent", key)
				}
				_ = s.Update(t.Context(), key, same) // may fail, and must not lose it
			}
		})
	}
	redistest.Reshard(t, servers[0], servers[2], 2000)
	close(stop)
	working.Wait()

	for i, key := range keys {
		require.Eventually(t, func() bool { return increment(t.Context(), writer, key) == nil }, recovery, 10*time.Millisecond)
		value, err := reader.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, "1", string(value))
		require.NoError(t, sessiontest.Put(t.Context(), writer, key, fmt.Append(nil, i), time.Hour))
		awaitTold(t, told, key)
		value, err = reader.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), string(value))
	}
}
