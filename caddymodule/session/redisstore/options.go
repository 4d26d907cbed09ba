package redisstore

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
	// follows it, at Open; default 1s. Later a connection is made as a part
	// of the command that needs it, so Timeout bounds it, too.
	DialTimeout time.Duration

	// Timeout bounds every call but Scan and Count, for which it bounds each
	// step; default 500ms. An Update may take twice as long if it has to
	// wait for its turn.
	Timeout time.Duration

	// ClientCache asks the server to tell of changed keys, so that Open
	// returns a session.Observer. Without it every read costs a round trip.
	ClientCache bool

	// Logger receives warnings; default: none.
	Logger *slog.Logger
}

const (
	defaultKeyPrefix   = "wxgate:"
	defaultDialTimeout = time.Second
	defaultTimeout     = 500 * time.Millisecond

	// keepAlive is how often an idle connection is tried.
	keepAlive = time.Second

	// topologyRefresh is how often the nodes of a cluster or the Sentinels
	// are asked who is master, beside the events that tell it.
	topologyRefresh = 2 * time.Second

	// readAttempts bounds how often one read is sent. The second finds a
	// new connection where the first one broke; after that the caller is
	// better served with an error than the server with more attempts.
	readAttempts = 3
)

// withDefaults fills in what was left out.
func (o Options) withDefaults() Options {
	if o.KeyPrefix == "" {
		o.KeyPrefix = defaultKeyPrefix
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = defaultDialTimeout
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Check says what of the options can be seen to be wrong without a server. Open
// refuses the same. No error holds an address, which may have a password.
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
	common, err := parseAddresses(o.Addresses, defaultPort)
	if err != nil {
		return rueidis.ClientOption{}, err
	}

	opt := rueidis.ClientOption{
		InitAddress: common.addresses,
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

		RetryDelay: retryDelay,
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
		if common.hasDB {
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
	if err := common.mergeInto(&opt); err != nil {
		return rueidis.ClientOption{}, err
	}
	if len(opt.InitAddress) > 1 && opt.SelectDB != 0 {
		return rueidis.ClientOption{}, fmt.Errorf("several addresses are those of a cluster, which has no database %d", opt.SelectDB)
	}
	return opt, nil
}

// mergeInto adds what the URLs say to what the options say, which must not
// contradict each other.
func (c addressing) mergeInto(opt *rueidis.ClientOption) error {
	merge := func(what string, option *string, url string) error {
		if *option != "" && url != "" && *option != url {
			return fmt.Errorf("the address has another %s than the option", what)
		}
		if *option == "" {
			*option = url
		}
		return nil
	}
	if err := merge("user", &opt.Username, c.username); err != nil {
		return err
	}
	if err := merge("password", &opt.Password, c.password); err != nil {
		return err
	}
	if c.hasDB {
		if opt.SelectDB != 0 && opt.SelectDB != c.db {
			return errors.New("the address has another database than the option")
		}
		opt.SelectDB = c.db
	}
	return nil
}

// retryDelay paces the attempts of one read, and ends them. Without it rueidis
// would go on until the deadline, some twenty times, while the server is in
// trouble. It does not repeat writes at all.
func retryDelay(attempts int, _ rueidis.Completed, _ error) time.Duration {
	if attempts >= readAttempts {
		return -1
	}
	return time.Duration(attempts) * (5*time.Millisecond + rand.N(10*time.Millisecond))
}

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
