//go:build !linux

package redistest

import "syscall"

// processAttributes has nothing to offer here: a server whose test was killed
// stays.
func processAttributes() *syscall.SysProcAttr { return nil }
