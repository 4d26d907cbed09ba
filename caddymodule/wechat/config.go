package wechat

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"time"
)

// Defaults of a Config.
const (
	DefaultBaseURL     = "https://api.weixin.qq.com"
	DefaultTimeout     = 5 * time.Second
	DefaultConcurrency = 64
)

// A MiniProgram is a mini program in whose name a Client asks.
type MiniProgram struct {
	AppID  string // wx and 16 hex digits
	Secret string `json:"-"`

	// OldSecret, if not empty, is tried once when WeChat answers that Secret is
	// wrong (40125), so that a secret can be changed here before or after it
	// is changed at WeChat.
	OldSecret string `json:"-"`
}

// A Config says how a Client reaches WeChat.
type Config struct {
	// BaseURL is where WeChat's API is, by default DefaultBaseURL. It must
	// pass ValidateBaseURL.
	BaseURL string

	// ProxyURL is a proxy to go through: http, https, socks5 or socks5h, perhaps with
	// user and password. By default there is none: the proxy variables of
	// the environment are not read, because they could send the
	// secret elsewhere.
	ProxyURL string

	// Timeout bounds a whole Code2Session: waiting for a place, connecting,
	// asking, and the retry. The default is DefaultTimeout.
	Timeout time.Duration

	// Concurrency is how many calls may be in flight, all mini programs
	// together. More wait for at most half of Timeout, so that a call
	// that is sent still has a fair chance. The default is DefaultConcurrency.
	Concurrency int

	// MiniPrograms are those for which the Client can ask.
	MiniPrograms []MiniProgram
}

// ValidateBaseURL returns why baseURL cannot be a Config's BaseURL, or nil. It
// must be an absolute https URL without user, query or fragment; plain http is
// for a loopback host only, since the secret travels in the URL.
func ValidateBaseURL(baseURL string) error {
	_, err := parseBaseURL(baseURL)
	return err
}

// parseBaseURL returns errors of its own: those of url.Parse quote the URL,
// which may hold a password.
func parseBaseURL(baseURL string) (*url.URL, error) {
	u, err := url.Parse(baseURL)
	switch {
	case err != nil:
		return nil, errors.New("WeChat's API address is not a URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("WeChat's API address must begin with https://")
	case u.Hostname() == "" || u.Opaque != "":
		return nil, errors.New("WeChat's API address has no host")
	case u.User != nil:
		return nil, errors.New("WeChat's API address must not hold a user or password")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("WeChat's API address must not have a query or fragment")
	case u.RawPath != "":
		return nil, errors.New("WeChat's API address must not have escapes in its path")
	case u.Scheme == "http" && !IsLoopback(u.Hostname()):
		return nil, fmt.Errorf("WeChat's API address must begin with https://: %s is not a loopback host, and the secret would travel in the clear", u.Hostname())
	}
	return u, nil
}

// ValidateProxyURL returns why proxyURL cannot be a Config's ProxyURL, or nil.
func ValidateProxyURL(proxyURL string) error {
	_, err := parseProxyURL(proxyURL)
	return err
}

func parseProxyURL(proxyURL string) (*url.URL, error) {
	u, err := url.Parse(proxyURL)
	if err != nil {
		return nil, errors.New("the proxy's address is not a URL such as http://10.0.0.9:3128")
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
	default:
		return nil, errors.New("the proxy's address must begin with http://, https://, socks5:// or socks5h://")
	}
	if u.Hostname() == "" {
		return nil, errors.New("the proxy's address has no host")
	}
	return u, nil
}

// IsLoopback reports whether only this machine reaches a host. It takes the
// name localhost at its word, as RFC 6761 asks.
func IsLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// withDefaults returns the configuration with its zero values filled in.
func (cfg Config) withDefaults() Config {
	cfg.BaseURL = cmp.Or(cfg.BaseURL, DefaultBaseURL)
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultTimeout)
	cfg.Concurrency = cmp.Or(cfg.Concurrency, DefaultConcurrency)
	return cfg
}

// resolve checks the configuration and returns the addresses in it. proxy is
// nil if there is none.
func (cfg Config) resolve() (base, proxy *url.URL, err error) {
	if cfg.Timeout < 0 {
		return nil, nil, errors.New("the timeout must be positive")
	}
	if cfg.Concurrency < 0 {
		return nil, nil, errors.New("the concurrency must be positive")
	}
	if base, err = parseBaseURL(cfg.BaseURL); err != nil {
		return nil, nil, err
	}
	if cfg.ProxyURL != "" {
		if proxy, err = parseProxyURL(cfg.ProxyURL); err != nil {
			return nil, nil, err
		}
		// An https request is a tunnel through the proxy. A plain one would
		// show the proxy the secret, and the network on the way there.
		if base.Scheme == "http" && !IsLoopback(proxy.Hostname()) {
			return nil, nil, errors.New("a proxy elsewhere needs an https:// address of WeChat's API: it would see the secret")
		}
	}
	return base, proxy, nil
}
