package serverapi

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQueries(t *testing.T) {
	q, err := splitQuery("a=%20b&Access_Token=one&%61ccess_token=two&&c&FROM_APPID=wx1&from_appid=wx2&CloudBase_Access_Token=x")
	require.NoError(t, err)
	require.Equal(t, []string{"a=%20b&c", "one", "wx1"}, []string{q.rest, q.accessToken, q.fromAppID})
	q.add("a", "mine")
	q.add("d", "e&f")
	require.Equal(t, "a=%20b&c&d=e%26f", q.rest, "what the caller gave stays")

	for _, raw := range []string{"a=%zz", "%zz=a", "a;access_token=x", "a b", "a=\t"} {
		_, err := splitQuery(raw)
		require.Error(t, err, raw)
	}
}
