package redisstore

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// Options say where the server is and how to speak to it.
type Options struct {
	// Addresses are host:port, redis://, rediss:// (TLS) or unix:// URLs; a
	// missing port is 6379, or 26379 with SentinelMaster. One address is a
	// single server or any node of a cluster, several are nodes of one
	// cluster. With SentinelMaster they are the Sentinels.
	//
	// A URL may hold a user and a password, and a database as its path
	// (?db= for unix). All URLs must agree. With SentinelMaster the user and
	// password of a URL are for the Sentinels, and Username and Password for
	// the servers.
	Addresses []string

	Username string // an ACL user; default: the default user
	Password string

	// DB is the number of the database. A cluster has only 0.
	DB int

	// KeyPrefix begins every key; default wxgate:. Gateways with the same
	// prefix share their sessions.
	KeyPrefix string

	// TLS encrypts all connections, those to Sentinels included. nil means
	// TLS only where a rediss:// URL asks for it, with the system's roots.
	TLS *tls.Config

	// SentinelMaster is the name under which the Sentinels know the master.
	SentinelMaster string

	// DialTimeout bounds a connection attempt and, again, the greeting that
	// follows it; default 1s.
	DialTimeout time.Duration

	// Timeout bounds one command, and so every call but Update, which sends
	// two commands or more and takes up to four times as long, and Scan and
	// Count, which send many; default 500ms.
	Timeout time.Duration

	// ClientCache asks the server to push the keys that change, so that Open
	// returns a session.Observer. Without it every read costs a round trip.
	ClientCache bool

	// Logger receives warnings; default: none.
	Logger *slog.Logger
}

// Defaults of Options.
const (
	DefaultKeyPrefix   = "wxgate:"
	DefaultDialTimeout = time.Second
	DefaultTimeout     = 500 * time.Millisecond
)

const (
	// keepAlive is how often an idle connection is tried.
	keepAlive = time.Second

	// topologyRefresh is how often the nodes of a cluster or the Sentinels
	// are asked who is master, beside the events that tell it.
	topologyRefresh = 2 * time.Second
)

// withDefaults fills in what was left out.
func (o Options) withDefaults() Options {
	o.KeyPrefix = cmp.Or(o.KeyPrefix, DefaultKeyPrefix)
	o.DialTimeout = cmp.Or(o.DialTimeout, DefaultDialTimeout)
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Check returns what can be seen to be wrong without a server; Open refuses the
// same. No error holds an address, which may have a password.
func (o Options) Check() error {
	_, err := o.withDefaults().clientOption()
	return err
}

// clientOption translates o for rueidis. No error names an address, since it
// may hold a password.
func (o Options) clientOption() (rueidis.ClientOption, error) {
	if o.DialTimeout < 0 || o.Timeout < 0 {
		return rueidis.ClientOption{}, errors.New("timeouts must be positive")
	}
	if o.DB < 0 {
		return rueidis.ClientOption{}, errors.New("the database number must not be negative")
	}
	defaultPort := "6379"
	if o.SentinelMaster != "" {
		defaultPort = "26379"
	}
	addresses, common, err := parseAddresses(o.Addresses, defaultPort)
	if err != nil {
		return rueidis.ClientOption{}, err
	}

	opt := rueidis.ClientOption{
		InitAddress: addresses,
		Username:    o.Username,
		Password:    o.Password,
		SelectDB:    o.DB,
		TLSConfig:   o.TLS,
		Dialer:      net.Dialer{Timeout: o.DialTimeout, KeepAlive: keepAlive},

		// A connection that is silent for so long after a PING is closed. It
		// must not be shorter than what a command may take.
		ConnWriteTimeout: max(time.Second, o.Timeout),

		// One connection per node carries everything. More would not make it
		// faster, since the server has one thread, and the order of one is
		// easier to reason about.
		PipelineMultiplex: -1,

		// It would send a command again that the goroutine of the broken
		// connection may still read, which is a data race.
		DisableRetry: true,

		ClusterOption: rueidis.ClusterOption{
			ShardsRefreshInterval: topologyRefresh,
			MaxMovedRedirections:  3,
		},
		DisableCache: true,
	}
	if o.ClientCache {
		opt.ClientName = "wxgate" // a proxy without CLIENT would refuse it
	}
	if opt.TLSConfig != nil && isSocket(opt.InitAddress[0]) {
		return rueidis.ClientOption{}, errors.New("a unix socket takes no TLS")
	}
	if common.tls && opt.TLSConfig == nil {
		opt.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if o.SentinelMaster != "" {
		if common.db != 0 {
			return rueidis.ClientOption{}, errors.New("a Sentinel has no databases: give the number as an option of its own")
		}
		opt.Sentinel = rueidis.SentinelOption{
			MasterSet:               o.SentinelMaster,
			Dialer:                  opt.Dialer,
			TLSConfig:               opt.TLSConfig,
			Username:                common.username,
			Password:                common.password,
			ClientName:              opt.ClientName,
			TopologyRefreshInterval: topologyRefresh,
		}
		return opt, nil
	}
	if err := errors.Join(
		agree("user", &opt.Username, common.username),
		agree("password", &opt.Password, common.password),
		agree("database", &opt.SelectDB, common.db),
	); err != nil {
		return rueidis.ClientOption{}, err
	}
	if len(opt.InitAddress) > 1 && opt.SelectDB != 0 {
		return rueidis.ClientOption{}, fmt.Errorf("several addresses are those of a cluster, which has no database %d", opt.SelectDB)
	}
	return opt, nil
}

// agree puts what the URL says into an option, which must not contradict it.
func agree[T comparable](what string, option *T, url T) error {
	var none T
	if *option != none && url != none && *option != url {
		return fmt.Errorf("the address has another %s than the option", what)
	}
	if url != none {
		*option = url
	}
	return nil
}

// An endpoint is one parsed address.
type endpoint struct {
	address  string // host:port, or the absolute path of a unix socket
	tls      bool
	username string
	password string
	db       int
}

// parseAddresses parses all addresses and requires that they agree on
// everything but the place, which common leaves out.
func parseAddresses(texts []string, defaultPort string) (addresses []string, common endpoint, err error) {
	if len(texts) == 0 {
		return nil, endpoint{}, errors.New("at least one address is needed")
	}
	for i, text := range texts {
		e, err := parseAddress(text, defaultPort)
		if err != nil {
			return nil, endpoint{}, fmt.Errorf("address %d: %w", i+1, err)
		}
		if len(texts) > 1 && isSocket(e.address) {
			return nil, endpoint{}, fmt.Errorf("address %d: a unix socket must be the only address", i+1)
		}
		addresses = append(addresses, e.address)
		e.address = ""
		if i > 0 && e != common {
			return nil, endpoint{}, fmt.Errorf("address %d differs from the first one in its scheme, user, password or database", i+1)
		}
		common = e
	}
	return addresses, common, nil
}

// parseAddress parses host:port or a URL. Its errors hold no part of the
// text, which may have a password anywhere if it is malformed. That is why it
// does not use rueidis.ParseURL, which also takes options in the query.
func parseAddress(text, defaultPort string) (e endpoint, err error) {
	if !strings.Contains(text, "://") {
		if strings.ContainsAny(text, "@/?#") {
			return endpoint{}, errors.New("not host:port; a user, a password or a database needs a redis:// URL")
		}
		text = "redis://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Fragment != "" || u.Opaque != "" {
		return endpoint{}, errors.New("not host:port or a redis:// URL")
	}
	e.username = u.User.Username()
	e.password, _ = u.User.Password()
	db := strings.TrimPrefix(u.Path, "/")
	switch u.Scheme {
	case "redis", "rediss":
		if u.RawQuery != "" {
			return endpoint{}, errors.New("a redis:// URL takes no query: use the options")
		}
		e.tls = u.Scheme == "rediss"
		if e.address, err = hostPort(u, defaultPort); err != nil {
			return endpoint{}, err
		}
	case "unix":
		query := u.Query()
		db = query.Get("db")
		query.Del("db")
		if u.Host != "" || !isSocket(u.Path) || len(query) > 0 {
			return endpoint{}, errors.New("a unix:// URL needs an absolute path and takes no query but db: unix:///run/redis.sock?db=1")
		}
		e.address = u.Path
	default:
		return endpoint{}, errors.New("the scheme must be redis, rediss or unix")
	}
	if n, err := strconv.ParseUint(db, 10, 31); err == nil {
		e.db = int(n)
	} else if db != "" {
		return endpoint{}, errors.New("the database is not a number")
	}
	return e, nil
}

// hostPort completes and checks the host and port of a URL.
func hostPort(u *url.URL, defaultPort string) (string, error) {
	host, port := u.Hostname(), cmp.Or(u.Port(), defaultPort)
	if host == "" || strings.ContainsAny(host, "[] \t\r\n") {
		return "", errors.New("the host is missing or malformed")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strings.HasSuffix(u.Host, ":") {
		return "", errors.New("the port is not a number from 1 to 65535")
	}
	return net.JoinHostPort(host, port), nil
}

// isSocket reports whether an address is the path of a unix socket.
func isSocket(address string) bool { return strings.HasPrefix(address, "/") }
