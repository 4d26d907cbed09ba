package command

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEnvLine(t *testing.T) {
	for line, want := range map[string]struct {
		name, value string
		ok          bool
	}{
		"":                     {"", "", true},
		"  # a comment = this": {"", "", true},
		"; so is this":         {"", "", true},
		"A=b":                  {"A", "b", true},
		" A = b ":              {"A", "b", true},
		"export A=b":           {"A", "b", true},
		`A="b c"`:              {"A", "b c", true},
		"A='b'":                {"A", "b", true},
		`A="b`:                 {"A", `"b`, true},
		"A=":                   {"A", "", true},
		"A=b=c==":              {"A", "b=c==", true},
		"A b=c":                {"", "", false},
		"=b":                   {"", "", false},
		"A":                    {"", "", false},
	} {
		name, value, ok := envLine(line)
		require.Equal(t, want.name, name, line)
		require.Equal(t, want.value, value, line)
		require.Equal(t, want.ok, ok, line)
	}
}
