package wechat_test

import (
	"bufio"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// otherSideVar makes the test binary the other side of a benchmark, in a process of its own, so
// that the CPU time of this one is the client's. Its value is the delay of each reply.
const otherSideVar = "WXGATE_TEST_OTHER_SIDE"

func serveOtherSide(delay string) {
	pause, err := time.ParseDuration(delay)
	if err != nil {
		panic(err)
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-time.After(pause)
		_, _ = fmt.Fprintf(w, `{"session_key":"%s","openid":"o%s"}`, goodKey, r.URL.Query().Get("js_code"))
	}))
	fmt.Println(server.URL)
	_ = pem.Encode(os.Stdout, &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // until the benchmark is over
}

// startOtherSide returns the address of a TLS server in another process, and its certificate.
func startOtherSide(b *testing.B, delay time.Duration) (string, *x509.CertPool) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), otherSideVar+"="+delay.String())
	stdin, err := cmd.StdinPipe()
	require.NoError(b, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	r := bufio.NewReader(stdout)
	url, err := r.ReadString('\n')
	require.NoError(b, err)
	var certificate strings.Builder
	for !strings.Contains(certificate.String(), "END CERTIFICATE") {
		line, err := r.ReadString('\n')
		require.NoError(b, err)
		certificate.WriteString(line)
	}
	roots := x509.NewCertPool()
	require.True(b, roots.AppendCertsFromPEM([]byte(certificate.String())))
	return strings.TrimSpace(url), roots
}

func benchmarkExchanges(b *testing.B, delay time.Duration, inFlight int, useOneEach bool) {
	url, roots := startOtherSide(b, delay)
	client, err := wechat.NewClient(wechat.Config{
		BaseURL: url, Timeout: time.Minute, Concurrency: inFlight,
		MiniPrograms: []wechat.MiniProgram{{AppID: appID, Secret: secret}},
	})
	require.NoError(b, err)
	b.Cleanup(client.Close)
	if useOneEach {
		client.UseOneConnectionEach()
	}
	client.SetRootCAs(roots)
	codes := make(chan int)
	done := make(chan error)
	for range inFlight {
		go func() {
			var err error
			for n := range codes {
				session, failure := client.Code2Session(b.Context(), appID, strconv.Itoa(n))
				if failure == nil && session.OpenID != "o"+strconv.Itoa(n) {
					failure = fmt.Errorf("code %d is %s", n, session.OpenID)
				}
				if failure != nil {
					err = failure
				}
			}
			done <- err
		}()
	}
	start, before := time.Now(), cpuTime(b)
	for n := 0; b.Loop(); n++ {
		codes <- n
	}
	close(codes)
	for range inFlight {
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(float64(cpuTime(b)-before)/1e3/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "logins/s")
}

func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkExchange compares kept connections with one for each exchange, as there was before.
func BenchmarkExchange(b *testing.B) {
	b.Run("kept", func(b *testing.B) { benchmarkExchanges(b, 0, wechat.DefaultConcurrency, false) })
	b.Run("one each", func(b *testing.B) { benchmarkExchanges(b, 0, wechat.DefaultConcurrency, true) })
}

// BenchmarkExchangeInFlight is for -benchtime 60s: logins/s at a WeChat that takes 50 ms, and
// whether ports run out.
func BenchmarkExchangeInFlight(b *testing.B) { benchmarkExchanges(b, 50*time.Millisecond, 256, false) }
