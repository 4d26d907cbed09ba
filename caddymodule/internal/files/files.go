// Package files writes files at once, and reports to whom they belong.
package files

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write makes a file that appears under its name only when write has
// succeeded and the disk has it, so that a crash leaves the former file, none or
// the whole new one. Only its owner can read it, whatever the umask. A file of
// that name is replaced, or else it is an error that wraps fs.ErrExist: of two
// processes that make the same file, one wins.
func Write(path string, replace bool, write func(*os.File) error) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("making the file: %w", err)
	}
	defer os.Remove(tmp.Name())
	if err := write(tmp); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := errors.Join(tmp.Chmod(0o600), tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("writing the file: %w", err)
	}
	name := os.Link // fails if the name exists
	if replace {
		name = os.Rename
	}
	if err := name(tmp.Name(), path); err != nil {
		return fmt.Errorf("naming the file: %w", err)
	}
	// Not every system can sync a directory.
	if d, err := os.Open(dir); err == nil {
		_ = errors.Join(d.Sync(), d.Close())
	}
	return nil
}
