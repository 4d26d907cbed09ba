package command

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// loadEnvFile adds the variables of --envfile to the environment. Like Caddy, it
// does not override what is there.
func loadEnvFile(cmd *cobra.Command) error {
	file, _ := cmd.Flags().GetString("envfile")
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading --envfile: %w", err)
	}
	for i, line := range strings.Split(string(text), "\n") {
		name, value, ok := envLine(line)
		if !ok {
			// The line may hold a secret, so it is not repeated.
			return fmt.Errorf("reading --envfile: line %d is not NAME=value", i+1)
		}
		if _, set := os.LookupEnv(name); name == "" || set {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("reading --envfile: line %d: the value cannot be that of a variable", i+1)
		}
	}
	return nil
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// envLine reads NAME=value, as in the environment files of systemd: a comment
// and an empty line are nothing, and the value may stand in quotes.
func envLine(line string) (name, value string, ok bool) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' || line[0] == ';' {
		return "", "", true
	}
	name, value, ok = strings.Cut(strings.TrimPrefix(line, "export "), "=")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	if !ok || !variableName.MatchString(name) {
		return "", "", false
	}
	if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
		value = value[1 : len(value)-1]
	}
	return name, value, true
}
