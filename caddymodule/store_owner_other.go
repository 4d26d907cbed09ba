//go:build !unix

package caddymodule

import "io/fs"

// ownedByUs is not known here.
func ownedByUs(fs.FileInfo) bool { return true }
