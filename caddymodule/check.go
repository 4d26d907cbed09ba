package caddymodule

import (
	"context"
	"fmt"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
)

// How grave a finding is.
const (
	StatusOK      = "ok"
	StatusWarning = "warning"
	StatusFault   = "fault"
)

// A Finding is one line of the doctor's report. It holds no secret.
type Finding struct {
	Status  string `json:"status"`
	Subject string `json:"subject"` // what was examined, such as a site
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"` // what to do
}

// doctor examines a configuration piece by piece: one that is broken cannot be
// loaded, and its other faults would stay hidden.
type doctor struct {
	conf     *configuration
	app      *App            // with its defaults, not provisioned
	running  *adminapi.Stats // of the gateway that runs, or nil
	proxy    string          // the way to WeChat, resolved; empty if it is direct
	findings []Finding
}

func (d *doctor) ok(subject, format string, args ...any) {
	d.findings = append(d.findings, Finding{Status: StatusOK, Subject: subject, Message: fmt.Sprintf(format, args...)})
}

func (d *doctor) warn(subject, message, fix string) {
	d.findings = append(d.findings, Finding{StatusWarning, subject, message, fix})
}

func (d *doctor) fault(subject, message, fix string) {
	d.findings = append(d.findings, Finding{StatusFault, subject, message, fix})
}

// Examine examines a configuration and what it needs. address is that of the
// admin endpoint; it is the configuration's if it is empty.
func Examine(ctx context.Context, config []byte, address string) []Finding {
	d := new(doctor)
	d.examine(ctx, config, address)
	return d.findings
}

func (d *doctor) examine(ctx context.Context, config []byte, address string) {
	var err error
	if d.conf, err = parseConfiguration(config); err != nil {
		d.fault("configuration", err.Error(), "correct it; `caddy validate` reports the same")
		return
	}
	d.checkAdmin()
	d.checkGateway(ctx, address)
	if d.app, err = d.conf.app(); err == nil {
		err = d.app.check()
	}
	if err != nil {
		d.fault("configuration", err.Error(), "correct the global option wxgate; see docs/configuration.md")
	}
	if d.app == nil {
		return
	}
	d.checkWeChat(ctx)
	keys := d.checkKeys()
	d.checkStore(ctx, keys)
	d.checkSites(ctx)
	d.checkLogs()
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprint(n) + " " + what
}
