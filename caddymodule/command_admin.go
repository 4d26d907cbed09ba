package caddymodule

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
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// errNoAnswer says that nobody answers at the admin endpoint's address.
var errNoAnswer = errors.New("no gateway answers")

// adminError is an answer of the admin endpoint that is not a success.
type adminError struct {
	status  int // of the gateway's answer, or noGateway
	message string
}

// noGateway stands for the status of an answer that is not the gateway's: its
// 404 does not say that there is no such user.
const noGateway = 0

func (e adminError) Error() string { return e.message }

// adminClient speaks with the admin endpoint of a running Caddy. Caddy's own
// AdminAPIRequest does not tell the status of an answer, nor can it be canceled.
type adminClient struct {
	address string // as the operator wrote it
	base    string // what comes before the path
	origin  string // what the header Origin says where it must be there; empty for a unix socket
	http    *http.Client
}

// adminFlags gives a command the flags that say where the gateway is.
func adminFlags(cmd *cobra.Command) {
	cmd.Flags().String("address", "", "Address of the admin endpoint, such as localhost:2019 or unix//run/caddy/admin.sock")
	cmd.Flags().StringP("config", "c", "", "Configuration file that names the admin endpoint, if --address is not used")
	cmd.Flags().StringP("adapter", "a", "", "Name of the config adapter, if --config is used")
}

// jsonFlag lets scripts read a command's output.
func jsonFlag(cmd *cobra.Command) {
	cmd.Flags().Bool("json", false, "Print JSON")
}

// newAdminClient finds the endpoint with the flags of adminFlags, as Caddy's
// own commands do.
func newAdminClient(cmd *cobra.Command) (*adminClient, error) {
	flags := caddycmd.Flags{FlagSet: cmd.Flags()}
	address, file, adapter := flags.String("address"), flags.String("config"), flags.String("adapter")
	var text []byte
	if address == "" && file != "" {
		conf, err := loadConfiguration(file, adapter)
		if err != nil {
			return nil, err
		}
		text = conf.raw
	}
	address, err := caddycmd.DetermineAdminAPIAddress(address, text, file, adapter)
	if err != nil {
		return nil, fmt.Errorf("finding the admin endpoint: %w", err)
	}
	return dialAdmin(address)
}

func dialAdmin(address string) (*adminClient, error) {
	parsed, err := caddy.ParseNetworkAddress(address)
	// A URL or a path behind the port is read as an address of another network.
	if err != nil || parsed.PortRangeSize() > 1 || !parsed.IsUnixNetwork() && !strings.HasPrefix(parsed.Network, "tcp") {
		return nil, usageError{fmt.Errorf("%q is not the address of an admin endpoint, such as localhost:2019 or unix//run/caddy/admin.sock", address)}
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
	return &adminClient{
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

// do sends a request and returns the answer if it is a success; else the error
// is an adminError, or wraps errNoAnswer.
func (c *adminClient) do(ctx context.Context, method, path string) (*http.Response, error) {
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
	return nil, readAdminError(resp)
}

func (c *adminClient) send(ctx context.Context, method, path, origin string) (*http.Response, error) {
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
	return nil, fmt.Errorf("%w at the admin endpoint %s: %w; is it running, and is this its --address?", errNoAnswer, c.address, err)
}

// maxAdminError bounds how much of an error is read.
const maxAdminError = 64 << 10

func readAdminError(resp *http.Response) adminError {
	var body struct {
		Error string `json:"error"`
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAdminError))
	switch err := json.Unmarshal(text, &body); {
	case err == nil && body.Error != "":
		return adminError{resp.StatusCode, body.Error}
	case resp.StatusCode == http.StatusNotFound:
		return adminError{noGateway, "this Caddy has no wxgate: it is another build, or another program"}
	default:
		return adminError{noGateway, "what answers there is no admin endpoint of Caddy: " + resp.Status}
	}
}

// get reads an answer into value.
func (c *adminClient) get(ctx context.Context, method, path string, value any) error {
	resp, err := c.do(ctx, method, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(value); err != nil {
		return fmt.Errorf("reading the answer of the admin endpoint: %w", err)
	}
	return nil
}

// userPath is the route of a user.
func userPath(appID, openID string) string {
	escaped := url.PathEscape(openID)
	// Dot segments mean something else, wherever they stand in a path.
	if openID == "." || openID == ".." {
		escaped = strings.ReplaceAll(openID, ".", "%2E")
	}
	return "/wxgate/users/" + url.PathEscape(appID) + "/" + escaped
}

// appID returns the mini program that a command is about: the one of the flag,
// or the only one there is.
func (c *adminClient) appID(ctx context.Context, flag string) (string, error) {
	if flag != "" {
		if err := checkAppID(flag); err != nil {
			return "", usageError{fmt.Errorf("--appid: %w", err)}
		}
		return flag, nil
	}
	var stats statsView
	if err := c.get(ctx, http.MethodGet, "/wxgate/stats", &stats); err != nil {
		return "", err
	}
	if len(stats.MiniPrograms) == 1 {
		return stats.MiniPrograms[0].AppID, nil
	}
	var declared []string
	for _, mp := range stats.MiniPrograms {
		declared = append(declared, mp.AppID)
	}
	return "", usageError{fmt.Errorf("the gateway serves several mini programs: say which with --appid: %s", strings.Join(declared, ", "))}
}
