package gatewaytest

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// packages names the Debian package of a command or file that a test may need.
// .ci/setup installs the same.
var packages = map[string]string{
	"java":            "default-jdk-headless",
	"nginx":           "nginx-light",
	"node":            "nodejs",
	"php":             "php-cli",
	"promtool":        "prometheus",
	"redis-cli":       "redis-tools",
	"systemd-analyze": "systemd",
	"uvicorn":         "uvicorn python3-fastapi",

	"/usr/lib/python3/dist-packages/cryptography": "python3-cryptography",
	"/usr/lib/python3/dist-packages/jwt":          "python3-jwt",
	"/usr/share/java/jackson-databind.jar":        "libjackson2-databind-java",
	"/usr/share/java/tomcat10-embed-core.jar":     "libtomcat10-embed-java",
}

// Needs declares what a test needs besides Go: commands, files by their
// absolute path, "root", or "time" for a test that takes many seconds. With
// -short such a test is skipped; without, it fails where something is missing,
// so `make test` runs every test.
func Needs(tb testing.TB, needs ...string) {
	tb.Helper()
	if testing.Short() {
		tb.Skipf("-short: this test needs %s", strings.Join(needs, ", "))
	}
	for _, need := range needs {
		switch {
		case need == "time":
		case need == "root":
			if os.Geteuid() != 0 {
				tb.Fatal("this test mounts a disk, so it must run as root; -short leaves it out")
			}
		case lookPath(need) == "":
			name := packages[need]
			if name == "" {
				name = need
			}
			tb.Fatalf("this test needs %s (apt-get install %s, or .ci/setup); -short leaves it out", need, name)
		}
	}
}

// Command declares that a test needs a program and returns the command that
// runs it.
func Command(tb testing.TB, name string, args ...string) *exec.Cmd {
	tb.Helper()
	Needs(tb, name)
	return exec.Command(lookPath(name), args...)
}

// lookPath returns the path of a command or file, or "". Debian keeps servers
// out of an ordinary user's PATH.
func lookPath(name string) string {
	for _, candidate := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if strings.HasPrefix(name, "/") {
			if _, err := os.Stat(name); err == nil {
				return name
			}
			return ""
		}
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	return ""
}

// smoke has the names of the tests that start the binary with -short, too.
var smoke sync.Map

// Smoke keeps a test that starts the gateway's binary among those that -short
// runs. All others that start it are skipped there: the binary takes a while to
// link, and each process a while to start.
func Smoke(tb testing.TB) {
	smoke.Store(tb.Name(), true)
}

// needsBinary skips a test with -short, unless it is one of the smoke tests.
func needsBinary(tb testing.TB) {
	tb.Helper()
	name, _, _ := strings.Cut(tb.Name(), "/")
	if _, ok := smoke.Load(name); testing.Short() && !ok {
		tb.Skip("-short: this test starts the gateway's binary")
	}
}
