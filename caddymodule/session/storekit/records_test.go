package storekit_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/storekit"
)

func someRecords(tb testing.TB) []byte {
	var whole bytes.Buffer
	require.NoError(tb, storekit.WriteRecords(&whole, func(visit func(*storekit.Record) error) error {
		for _, r := range []storekit.Record{
			{Key: "session:a", Value: []byte("value"), ExpiresAt: 7},
			{Key: "user:b", Deleted: true},
		} {
			require.NoError(tb, visit(&r))
		}
		return nil
	}))
	return whole.Bytes()
}

func TestRecordsThatWereCutOrChanged(t *testing.T) {
	good := someRecords(t)
	read := func(content []byte) (n int, err error) {
		err = storekit.ReadRecords(bytes.NewReader(content), func(*storekit.Record) error { n++; return nil })
		return n, err
	}
	n, err := read(good)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	for at := range good {
		_, err := read(good[:at])
		require.ErrorIs(t, err, storekit.ErrNoRecords, "cut at %d", at)
		changed := bytes.Clone(good)
		changed[at] ^= 4
		_, err = read(changed)
		require.ErrorIs(t, err, storekit.ErrNoRecords, "changed at %d", at)
	}
}

// Any bytes are read to their end or refused.
func FuzzRecords(f *testing.F) {
	f.Add(someRecords(f))
	f.Fuzz(func(t *testing.T, content []byte) {
		n := 0
		err := storekit.ReadRecords(bytes.NewReader(content), func(r *storekit.Record) error {
			require.NotEmpty(t, r.Key)
			require.LessOrEqual(t, len(r.Value), session.MaxValue)
			n++
			return nil
		})
		if err != nil {
			require.ErrorIs(t, err, storekit.ErrNoRecords)
		}
		require.LessOrEqual(t, n*15, len(content))
	})
}
