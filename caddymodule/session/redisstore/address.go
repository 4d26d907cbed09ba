package redisstore

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// An addressing is what all addresses together say.
type addressing struct {
	addresses []string // host:port, or the path of a socket
	endpoint           // what they agree on; its address is empty
}

// An endpoint is one parsed address.
type endpoint struct {
	address  string // host:port, or the absolute path of a unix socket
	tls      bool
	username string
	password string
	db       int
	hasDB    bool
}

// parseAddresses parses all addresses and requires that they agree on
// everything but the place.
func parseAddresses(addresses []string, defaultPort string) (addressing, error) {
	if len(addresses) == 0 {
		return addressing{}, errors.New("at least one address is needed")
	}
	var all addressing
	for i, text := range addresses {
		e, err := parseAddress(text, defaultPort)
		if err != nil {
			return addressing{}, fmt.Errorf("address %d: %w", i+1, err)
		}
		if len(addresses) > 1 && isSocket(e.address) {
			return addressing{}, fmt.Errorf("address %d: a unix socket must be the only address", i+1)
		}
		all.addresses = append(all.addresses, e.address)
		e.address = ""
		if i > 0 && e != all.endpoint {
			return addressing{}, fmt.Errorf("address %d differs from the first one in its scheme, user, password or database", i+1)
		}
		all.endpoint = e
	}
	return all, nil
}

// parseAddress parses host:port or a URL. Its errors hold no part of the
// text, which may have a password anywhere if it is malformed.
func parseAddress(text, defaultPort string) (endpoint, error) {
	if !strings.Contains(text, "://") {
		if strings.ContainsAny(text, "@/?#") {
			return endpoint{}, errors.New("not host:port; a user, a password or a database needs a redis:// URL")
		}
		address, err := hostPort(text, defaultPort)
		return endpoint{address: address}, err
	}
	u, err := url.Parse(text)
	if err != nil {
		return endpoint{}, errors.New("not a URL")
	}
	if u.Fragment != "" || u.Opaque != "" {
		return endpoint{}, errors.New("not a redis:// URL")
	}
	var e endpoint
	if u.User != nil {
		e.username = u.User.Username()
		e.password, _ = u.User.Password()
	}
	switch u.Scheme {
	case "redis", "valkey", "rediss", "valkeys":
		e.tls = u.Scheme == "rediss" || u.Scheme == "valkeys"
		if u.RawQuery != "" {
			return endpoint{}, errors.New("a redis:// URL takes no query: use the options")
		}
		if e.address, err = hostPort(u.Host, defaultPort); err != nil {
			return endpoint{}, err
		}
		err = e.setDB(strings.TrimPrefix(u.Path, "/"))
	case "unix":
		if u.Host != "" || !isSocket(u.Path) {
			return endpoint{}, errors.New("a unix:// URL needs an absolute path: unix:///run/redis.sock")
		}
		e.address = u.Path
		query := u.Query()
		err = e.setDB(query.Get("db"))
		query.Del("db")
		if len(query) > 0 {
			return endpoint{}, errors.New("a unix:// URL takes no query but db")
		}
	default:
		return endpoint{}, errors.New("the scheme must be redis, rediss or unix")
	}
	return e, err
}

func (e *endpoint) setDB(text string) error {
	if text == "" {
		return nil
	}
	db, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return errors.New("the database is not a number")
	}
	e.db, e.hasDB = int(db), true
	return nil
}

// hostPort completes and checks a host:port.
func hostPort(text, defaultPort string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		// A port may be missing; anything else that is wrong still is.
		if host, port, err = net.SplitHostPort(text + ":" + defaultPort); err != nil {
			return "", errors.New("not host:port")
		}
	}
	if host == "" || strings.ContainsAny(host, " \t\r\n") {
		return "", errors.New("the host is missing")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", errors.New("the port is not a number from 1 to 65535")
	}
	return net.JoinHostPort(host, port), nil
}

// isSocket tells the path of a unix socket from a host:port.
func isSocket(address string) bool {
	return strings.HasPrefix(address, "/")
}
