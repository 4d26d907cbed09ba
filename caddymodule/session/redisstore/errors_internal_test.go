package redisstore

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// An outage passes and keeps nothing from starting. A mistake does not, and the
// error names the option.
func TestOutagesAndMistakes(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	reply := func(text string) error { return newServerError(text, nil) }
	for name, tc := range map[string]struct {
		err    error
		option string // empty: an outage
	}{
		"refused":                 {dial(syscall.ECONNREFUSED), ""},
		"no route":                {dial(syscall.EHOSTUNREACH), ""},
		"timeout":                 {dial(os.ErrDeadlineExceeded), ""},
		"closed by the server":    {io.EOF, ""},
		"paced":                   {fmt.Errorf("%w: %w", errResting, dial(syscall.ECONNREFUSED)), ""},
		"name server is away":     {dial(&net.DNSError{Err: "server misbehaving", IsTemporary: true}), ""},
		"name does not exist":     {dial(&net.DNSError{Err: "no such host", IsNotFound: true}), "address"},
		"certificate":             {&tls.CertificateVerificationError{Err: errors.New("unknown authority")}, "tls"},
		"TLS refused":             {tls.AlertError(42), "tls"},
		"loading":                 {reply("LOADING Redis is loading the dataset in memory"), ""},
		"busy":                    {reply("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."), ""},
		"too many clients":        {reply("max number of clients reached"), ""},
		"wrong password":          {reply("WRONGPASS invalid username-password pair or user is disabled."), "username or password"},
		"no password":             {reply("NOAUTH Authentication required."), "password"},
		"needless password":       {reply("AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"), "password"},
		"protected mode":          {reply("DENIED Redis is running in protected mode because protected mode is enabled"), "password"},
		"permission":              {reply("NOPERM this user has no permissions to run the 'eval' command"), "username"},
		"permission in a script":  {reply("The user executing the script can't run this command or subcommand script: cff8bfcfbb6d7a17df4851230bde56aaedd2fef5, on @user_script:5."), "username"},
		"database":                {reply("DB index is out of range"), "db"},
		"replica, Redis 6":        {reply("Error running script (call to f_cff8bfcfbb6d7a17df4851230bde56aaedd2fef5): @user_script:5: @user_script: 5: -READONLY You can't write against a read only replica."), ""},
		"replica, Redis 7":        {reply("READONLY You can't write against a read only replica. script: cff8bfcfbb6d7a17df4851230bde56aaedd2fef5, on @user_script:5."), ""},
		"out of memory, Redis 6":  {reply("ERR Error running script (call to f_cff8bfcfbb6d7a17df4851230bde56aaedd2fef5): @user_script:4: -OOM command not allowed when used memory > 'maxmemory'."), ""},
		"replicas away, Redis 6":  {reply("Error running script (call to f_cff8bfcfbb6d7a17df4851230bde56aaedd2fef5): @user_script:5: -NOREPLICAS Not enough good replicas to write."), ""},
		"unknown error in script": {reply("Error running script (call to f_x): @user_script:5: @user_script: 5: Unknown Redis command called from Lua script"), "none"},
	} {
		t.Run(name, func(t *testing.T) {
			err := new(Store).clean(tc.err)
			require.Equal(t, tc.option == "", errors.Is(err, session.ErrUnavailable), err)
			if tc.option != "" && tc.option != "none" {
				require.Equal(t, tc.option, optionOf(err))
			}
			require.NotContains(t, err.Error(), "script: cff8")
			require.NotContains(t, err.Error(), "user_script")
		})
	}
}
