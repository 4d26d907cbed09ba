package redistest

import "syscall"

// processAttributes make the kernel end a server whose test was killed.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
