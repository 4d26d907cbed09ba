package wechat

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"syscall"
)

// A transport sends requests. CloseIdleConnections also closes those in use, after their reply.
type transport interface {
	http.RoundTripper
	CloseIdleConnections()
}

// newTransport returns a pool for replies of at most maxBody, or one connection for each
// request where a proxy has to be asked first.
func newTransport(cfg Config, base, proxy *url.URL, maxBody int64) transport {
	if proxy != nil {
		return newProxyTransport(cfg, proxy)
	}
	p := &pool{dial: (&net.Dialer{Timeout: cfg.Timeout}).DialContext, maxIdle: cfg.Concurrency, maxBody: maxBody}
	port := "80"
	if base.Scheme == "https" {
		port = "443"
		p.tls = tlsConfig()
		p.tls.ServerName = base.Hostname()
	}
	p.address = net.JoinHostPort(base.Hostname(), cmp.Or(base.Port(), port))
	return p
}

func tlsConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(0)}
}

// newProxyTransport returns a transport on which each request has a connection of its own: see pool
// for what http.Transport does with kept ones. A TLS session is resumed, which saves most of
// the cost.
func newProxyTransport(cfg Config, proxy *url.URL) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy: http.ProxyURL(proxy),
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
			if resp.StatusCode != http.StatusOK {
				return proxyRefusal(resp.StatusCode)
			}
			return nil
		},
		DisableKeepAlives:      true,
		Protocols:              protocols,
		DialContext:            (&net.Dialer{Timeout: cfg.Timeout}).DialContext,
		TLSClientConfig:        tlsConfig(),
		TLSHandshakeTimeout:    cfg.Timeout,
		MaxResponseHeaderBytes: maxReplyHeader,
		// Without it a small gzipped reply could become a large one.
		DisableCompression: true,
	}
}

// A proxyRefusal is the HTTP status of a proxy that makes no tunnel, such as 407
// when it does not take the password.
type proxyRefusal int

func (r proxyRefusal) Error() string { return fmt.Sprintf("the proxy's HTTP status is %d", int(r)) }

// send sends one request and returns its reply, whose body is still to be read. It uses the
// transport alone, because http.Client follows redirects, adds a Referer and returns errors
// that quote the URL.
func send(ctx context.Context, transport http.RoundTripper, req *http.Request) (*http.Response, *Error) {
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// From here on the request may be on its way. It is called when the
		// TLS handshake is done, and the proxy, if any, has agreed.
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	resp, err := transport.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, networkError(err, connected.Load())
	}
	return resp, nil
}

// ask sends one request and returns the body of a reply of status 200. ctx bounds everything.
func ask(ctx context.Context, transport http.RoundTripper, req *http.Request) ([]byte, *Error) {
	resp, failure := send(ctx, transport, req)
	if failure != nil {
		return nil, failure
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return nil, badReply("the reply is a redirect")
	case resp.StatusCode != http.StatusOK:
		err := badReply(fmt.Sprintf("the reply's HTTP status is %d", resp.StatusCode))
		err.outage = resp.StatusCode >= 500
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return nil, networkError(err, true)
	}
	if len(body) > maxReply {
		return nil, badReply("the reply is over 64 KiB")
	}
	return body, nil
}

// networkError describes in this package's own words what net/http returned,
// whose text may hold foreign bytes, an address or a part of the URL.
func networkError(err error, sent bool) *Error {
	if isTimeout(err) {
		reason := "no connection in time"
		if sent {
			reason = "no complete reply in time"
		}
		return &Error{Kind: Timeout, Reason: reason, RetryAfter: busyRetryAfter, Sent: sent, outage: true}
	}
	return &Error{Kind: BadReply, Reason: networkReason(err, sent), Sent: sent, outage: !sent}
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout()
}

func networkReason(err error, sent bool) string {
	var (
		dnsErr    *net.DNSError
		certErr   *tls.CertificateVerificationError
		recordErr tls.RecordHeaderError
		alertErr  tls.AlertError
		opErr     *net.OpError
		refusal   proxyRefusal
	)
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "too many open files: raise the limit (LimitNOFILE)"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "no port is free for another connection"
	case errors.As(err, &refusal):
		return refusal.Error()
	case errors.As(err, &opErr) && opErr.Op == "proxyconnect":
		return "the proxy cannot be reached"
	case errors.As(err, &dnsErr):
		return "the host name cannot be looked up"
	case errors.As(err, &certErr):
		return "the TLS certificate is not trusted"
	case errors.As(err, &recordErr):
		return "the other side does not speak TLS"
	case errors.As(err, &alertErr):
		return "the TLS handshake failed"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection was refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "there is no route to the host"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed before the reply was complete"
	case !sent:
		return "the connection could not be made"
	}
	return "the reply is not HTTP"
}
