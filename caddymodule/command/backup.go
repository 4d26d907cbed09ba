package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
	"github.com/wxgate/wxgate/caddymodule/internal/files"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
)

func backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup -o <file> [--address <admin endpoint>]",
		Short: "Writes a consistent copy of the running gateway's sessions to a file",
		Long: `
Writes a consistent copy of the running gateway's sessions to a file. The gateway goes
on serving. The store must be badger; for Redis, use its own tools. The file appears
under its name when it is complete, and replaces a file of that name. Only its owner
can read it. -o - writes to stdout; a device or a pipe is written to directly.

The copy is sealed like the store: back up the encryption key as well, in another
place. By default it is the file wxgate/encryption.key in Caddy's data directory. The
two together give the users' openids and session_keys, but no token.`,
		Args: arguments(0),
		RunE: run(runBackup),
	}
	configFlags(cmd)
	cmd.Flags().StringP("output", "o", "", "The file to write, or - for stdout")
	return cmd
}

func runBackup(cmd *cobra.Command, _ []string) error {
	output, _ := cmd.Flags().GetString("output")
	if output == "" {
		return usageError{errors.New("-o is missing: the file to write the backup to")}
	}
	client, err := newClient(cmd)
	if err != nil {
		return err
	}
	if output == "-" {
		if f, ok := cmd.OutOrStdout().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return usageError{errors.New("a backup is not written to a terminal: redirect stdout to a file")}
		}
		_, err := receiveBackup(cmd.Context(), client, cmd.OutOrStdout())
		return err
	}
	path, err := followLinks(output)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return usageError{fmt.Errorf("%s is a directory: name a file in it", output)}
	case err == nil && !info.Mode().IsRegular():
		return backupInto(cmd, client, path)
	}
	var size int64
	err = files.Write(path, true, func(f *os.File) (err error) {
		size, err = receiveBackup(cmd.Context(), client, f)
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s written to %s; back up the encryption key, too: without it the backup cannot be read\n", humanize.IBytes(uint64(size)), output)
	return err
}

// backupInto writes a backup into what is no file, such as a pipe: a new file
// must not take its place. It prints nothing, because that may be /dev/stdout.
func backupInto(cmd *cobra.Command, client *adminapi.Client, output string) error {
	f, err := os.OpenFile(output, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("opening the output: %w", err)
	}
	_, err = receiveBackup(cmd.Context(), client, f)
	return errors.Join(err, f.Close())
}

func receiveBackup(ctx context.Context, client *adminapi.Client, w io.Writer) (size int64, err error) {
	resp, err := client.Do(ctx, http.MethodGet, "/wxgate/backup")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	size, err = io.Copy(w, resp.Body)
	switch {
	case errors.As(err, new(*fs.PathError)): // of a file, which the network is not
		return size, fmt.Errorf("writing the backup: %w", err)
	case err != nil:
		return size, fmt.Errorf("receiving the backup: %w; see the gateway's log", err)
	}
	return size, nil
}

// followLinks returns the file behind symbolic links. In a directory such as
// /tmp anyone can make a link to a file that only this user can write to, so the
// links of other users are refused, but for those of the system such as
// /dev/stdout.
func followLinks(path string) (string, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("finding the output: %w", err)
	}
	for part := absolute; part != filepath.Dir(part); part = filepath.Dir(part) {
		info, err := os.Lstat(part)
		if err == nil && info.Mode().Type() == fs.ModeSymlink && !files.OwnedByUs(info) && !files.OwnedByRoot(info) {
			return "", usageError{fmt.Errorf("%s is another user's symbolic link; name the file itself", part)}
		}
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target, nil
	}
	return path, nil
}

func restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore <file> --dir <directory>",
		Short: "Restores a backup into a store directory",
		Long: `
Restores a backup into a store directory, for a gateway that is not running. The
directory must be empty or absent; by default the gateway's is wxgate/sessions in
Caddy's data directory. Run the command as the gateway's user:

	$ systemctl stop wxgate
	$ sudo -u wxgate caddy wxgate restore sessions.backup --dir /var/lib/wxgate/.local/share/caddy/wxgate/sessions
	$ systemctl start wxgate

The gateway needs the encryption key that it had when the backup was made. Sessions
that were revoked after the backup are valid again.`,
		Args: arguments(1),
		RunE: run(runRestore),
	}
	cmd.Flags().String("dir", "", "The directory to make")
	return cmd
}

func runRestore(cmd *cobra.Command, args []string) error {
	dir, _ := cmd.Flags().GetString("dir")
	if dir == "" {
		return usageError{errors.New("--dir is missing: the directory to restore into")}
	}
	n, err := restoreFile(cmd.Context(), args[0], dir)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s restored into %s; the gateway needs the encryption key that it had when the backup was made\n", plural(n, "record"), dir)
	return err
}

// restoreFile makes the store directory dir of a backup, and returns how many
// records it holds.
func restoreFile(ctx context.Context, file, dir string) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, fmt.Errorf("opening the backup: %w", err)
	}
	defer f.Close()
	return badgerstore.Restore(ctx, f, dir)
}
