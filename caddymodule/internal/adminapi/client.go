package adminapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// ErrNoAnswer is returned when no server answers at the admin endpoint's address.
var ErrNoAnswer = errors.New("no gateway answers")

// ErrAddress is returned for a text that is not the address of an admin endpoint.
var ErrAddress = errors.New("is not the address of an admin endpoint, such as localhost:2019 or unix//run/caddy/admin.sock")

// Error is an answer of the admin endpoint that is not a success.
type Error struct {
	Status  int // of the gateway's answer, or NoGateway
	Message string
}

// NoGateway stands for the status of an answer that is not the gateway's: its
// 404 does not mean that there is no such user.
const NoGateway = 0

func (e Error) Error() string { return e.Message }

// Client calls the admin endpoint of a running Caddy. Caddy's own
// AdminAPIRequest returns no status, and it cannot be canceled.
type Client struct {
	address string // as the operator wrote it
	base    string // what comes before the path
	origin  string // the header Origin where Caddy demands one; empty for a unix socket
	http    *http.Client
}

// New returns a client for the admin endpoint at an address as Caddy writes it.
// The error is ErrAddress if it is none.
func New(address string) (*Client, error) {
	parsed, err := caddy.ParseNetworkAddress(address)
	// A URL or a path behind the port is read as an address of another network.
	if err != nil || parsed.PortRangeSize() > 1 || !parsed.IsUnixNetwork() && !strings.HasPrefix(parsed.Network, "tcp") {
		return nil, fmt.Errorf("%q %w", address, ErrAddress)
	}
	network, target := parsed.Network, parsed.JoinHostPort(0)
	base, origin := "http://"+target, "http://"+target
	switch {
	case parsed.IsUnixNetwork():
		// The address may go on with the permissions of the socket.
		target, _, _ = strings.Cut(parsed.Host, "|")
		base, origin = "http://127.0.0.1", ""
	case parsed.Host == "":
		base = "http://localhost" + target // Caddy refuses a request without a host
	}
	return &Client{
		address: address,
		base:    base,
		origin:  origin,
		http: &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, target)
			},
		}},
	}, nil
}

// Do sends a request and returns the answer if it is a success. The error is an
// Error, or wraps ErrNoAnswer.
func (c *Client) Do(ctx context.Context, method, path string) (*http.Response, error) {
	resp, err := c.send(ctx, method, path, "")
	if err == nil && resp.StatusCode == http.StatusForbidden && c.origin != "" {
		// Caddy demands an origin under enforce_origin only, and otherwise
		// refuses one that is not the very address it listens on: with
		// `admin :2019`, localhost:2019 is not.
		_ = resp.Body.Close()
		resp, err = c.send(ctx, method, path, c.origin)
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, readError(resp)
}

func (c *Client) send(ctx context.Context, method, path, origin string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	if origin != "" {
		req.Header.Set("Origin", origin)
	}
	resp, err := c.http.Do(req)
	if err == nil {
		return resp, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	// The text of http.Client goes on with the URL, which has the openid.
	var cause *url.Error
	if errors.As(err, &cause) {
		err = cause.Err
	}
	return nil, fmt.Errorf("%w at the admin endpoint %s: %w; is it running, and is this its --address?", ErrNoAnswer, c.address, err)
}

// maxError bounds how much of an error is read.
const maxError = 64 << 10

func readError(resp *http.Response) Error {
	var body struct {
		Error string `json:"error"`
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxError))
	switch err := json.Unmarshal(text, &body); {
	case err == nil && body.Error != "":
		return Error{resp.StatusCode, body.Error}
	case resp.StatusCode == http.StatusNotFound:
		return Error{NoGateway, "this Caddy has no wxgate: it is another build, or another program"}
	default:
		return Error{NoGateway, "what answers there is no admin endpoint of Caddy: " + resp.Status}
	}
}

// Call sends a request and reads the answer into value.
func (c *Client) Call(ctx context.Context, method, path string, value any) error {
	resp, err := c.Do(ctx, method, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(value); err != nil {
		return fmt.Errorf("reading the answer of the admin endpoint: %w", err)
	}
	return nil
}
