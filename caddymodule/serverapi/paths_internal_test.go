package serverapi

import (
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// The document names every path of the lists.
func TestTheListsAreDocumented(t *testing.T) {
	for _, path := range []string{"../../docs/server-api.md", "../../docs/server-api.zh-CN.md"} {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, listed := range slices.Concat(defaultAllow, never, signedPaths) {
			require.Contains(t, string(text), "`"+listed+"`", path)
		}
	}
}

func TestNothingIsAllowedThatIsNever(t *testing.T) {
	for _, pattern := range defaultAllow {
		require.NoError(t, checkAllow(pattern))
	}
	for _, path := range []string{"/sns/jscode2session", "/sns/component/jscode2session", "/cgi-bin/clear_quota/v2", "/donut/code2verifyinfo", "/wxa/resetusersessionkey"} {
		require.NotEmpty(t, matchAny(never, path), path)
		require.Error(t, checkAllow(path))
	}
}
