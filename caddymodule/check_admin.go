package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
)

const (
	subjectAdmin   = "admin endpoint"
	subjectGateway = "gateway"
)

// adminListen is where the configuration has the admin endpoint.
func (d *doctor) adminListen() string {
	if d.conf.Admin == nil || d.conf.Admin.Listen == "" {
		return caddy.DefaultAdminListen
	}
	return caddy.NewReplacer().ReplaceKnown(d.conf.Admin.Listen, "")
}

// checkAdmin makes sure that only this machine reaches the admin endpoint: it
// asks nobody for a password.
func (d *doctor) checkAdmin() {
	if d.conf.Admin != nil && d.conf.Admin.Disabled {
		d.warn(subjectAdmin, "it is off, so the commands stats, user, revoke and backup have nobody to speak to",
			"remove `admin off`; a unix socket is out of reach for others: admin unix//run/caddy/admin.sock")
		return
	}
	listen := d.adminListen()
	address, err := caddy.ParseNetworkAddress(listen)
	switch {
	case err != nil:
		d.fault(subjectAdmin, fmt.Sprintf("%q is not an address", listen), "write `admin localhost:2019` or `admin unix//run/caddy/admin.sock` in the global options")
	case address.IsUnixNetwork() || address.IsFdNetwork() || loopbackHost(address.Host):
		d.ok(subjectAdmin, "%s, out of reach from outside", listen)
	default:
		d.fault(subjectAdmin, listen+" can be reached from outside: whoever reaches it may replace the configuration and end every session",
			"write `admin localhost:2019` or `admin unix//run/caddy/admin.sock` in the global options")
	}
}

func loopbackHost(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// askTime bounds each question over the network.
const askTime = 5 * time.Second

// checkGateway asks the gateway that runs, if one does, how it is.
func (d *doctor) checkGateway(ctx context.Context, address string) {
	if address == "" {
		if d.conf.Admin != nil && d.conf.Admin.Disabled {
			return
		}
		address = d.adminListen()
	}
	client, err := adminapi.New(address)
	if err != nil {
		return // checkAdmin has said so
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var stats adminapi.Stats
	if err = client.Call(ctx, http.MethodGet, "/wxgate/stats", &stats); err == nil {
		d.running = &stats
		// The gateway has its figures also when its store does not answer.
		err = client.Call(ctx, http.MethodGet, "/wxgate/ready", new(struct{}))
	}
	var answer adminapi.Error
	switch {
	case err == nil:
		sessions := ""
		if stats.Sessions != nil {
			sessions = fmt.Sprintf(", about %s live sessions", humanize.Comma(*stats.Sessions))
		}
		d.ok(subjectGateway, "runs, and its store answers%s", sessions)
	case errors.As(err, &answer) && answer.Status == http.StatusServiceUnavailable:
		d.fault(subjectGateway, "runs, but cannot work: "+answer.Message, "see its log; what follows may say why")
	case errors.As(err, &answer):
		d.warn(subjectGateway, fmt.Sprintf("what answers at %s is not this gateway: %s", address, answer.Message), "give the --address of the gateway's admin endpoint, or stop the other program")
	default:
		d.ok(subjectGateway, "none answers at %s; examined without it", address)
	}
}
