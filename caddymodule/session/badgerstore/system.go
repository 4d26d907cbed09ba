package badgerstore

import (
	"log/slog"
	"runtime"
)

// warnOfLacks says what the system cannot do for the store in dir.
func warnOfLacks(dir string, log *slog.Logger) {
	if _, ok := freeBytes(dir); !ok {
		log.Warn("the free space is not known here: min_free is not kept, and a full disk ends the process", "dir", dir)
	}
	if runtime.GOOS == "windows" {
		log.Warn("this system has no file modes: let only the gateway's user read the session store and the encryption key", "dir", dir)
	}
}
