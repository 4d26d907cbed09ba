package command

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"

	"github.com/wxgate/wxgate/caddymodule"
	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

const subjectAdmin = "admin endpoint"

// adminListen is where the configuration has the admin endpoint; empty if it is off.
func (c *checkup) adminListen() string {
	switch admin := c.config.Admin; {
	case admin == nil || !admin.Disabled && admin.Listen == "":
		return caddy.DefaultAdminListen
	case admin.Disabled:
		return ""
	default:
		return caddy.NewReplacer().ReplaceKnown(admin.Listen, "")
	}
}

// examineAdmin makes sure that only this machine reaches the admin endpoint,
// which asks for no password.
func (c *checkup) examineAdmin() {
	const fix = "write `admin localhost:2019` or `admin unix//run/caddy/admin.sock` in the global options"
	listen := c.adminListen()
	if listen == "" {
		c.Warn(subjectAdmin, "it is off, so the commands stats, user, revoke and backup cannot work",
			"remove `admin off`; other users cannot reach a unix socket: admin unix//run/caddy/admin.sock")
		return
	}
	address, err := caddy.ParseNetworkAddress(listen)
	switch {
	case err != nil:
		c.Fault(subjectAdmin, fmt.Sprintf("%q is not an address", listen), fix)
	case address.IsUnixNetwork() || address.IsFdNetwork() || wechat.IsLoopback(address.Host):
		c.OK(subjectAdmin, "%s, not reachable from outside", listen)
	default:
		c.Fault(subjectAdmin, listen+" can be reached from outside, where anyone may replace the configuration and revoke every session", fix)
	}
}

// askTimeout bounds the questions to the running gateway.
const askTimeout = 5 * time.Second

// examineRunning asks the gateway that runs, if one does, how it is.
func (c *checkup) examineRunning(ctx context.Context) {
	const subject = "gateway"
	address, _ := c.cmd.Flags().GetString("address")
	if address == "" {
		address = c.adminListen()
	}
	client, err := adminapi.New(address)
	if address == "" || err != nil {
		return // examineAdmin has reported it
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var stats adminapi.Stats
	if err = client.Call(ctx, http.MethodGet, "/wxgate/stats", &stats); err == nil {
		c.running = &stats
		// The gateway has its figures also when its store does not answer.
		err = client.Call(ctx, http.MethodGet, "/wxgate/ready", new(struct{}))
	}
	answer, answered := errors.AsType[adminapi.Error](err)
	switch {
	case err == nil:
		sessions := ""
		if stats.Sessions != nil {
			sessions = fmt.Sprintf(", about %s live sessions", humanize.Comma(*stats.Sessions))
		}
		c.OK(subject, "runs, and its store answers%s", sessions)
	case answered && answer.Status == http.StatusServiceUnavailable:
		c.Fault(subject, "runs, but cannot work: "+answer.Message, "see its log; the lines below may name the reason")
	case answered:
		c.Warn(subject, fmt.Sprintf("the server at %s is not this gateway: %s", address, answer.Message), "give the --address of the gateway's admin endpoint, or stop the other program")
	default:
		c.OK(subject, "none answers at %s; examined without it", address)
	}
}

var secretPlaceholder = regexp.MustCompile(`\{(env|file)\.[^{}"]+\}`)

const fixEnvironment = "give this command the gateway's environment with --envfile, and run it as the gateway's user"

// standIn is the variable whose value stands for secrets that are not known
// here: it has the form of any of them.
const standIn = "WXGATE_CHECK_STAND_IN"

// examinePlaceholders looks up the secrets of the app, and puts a stand-in for
// each that is unknown here, so that the rest can be examined. It reports whether
// all are known. With a gateway running that is no fault: it has been given them.
func (c *checkup) examinePlaceholders() (all bool) {
	all = true
	app := string(c.config.AppsRaw["wxgate"])
	placeholders := secretPlaceholder.FindAllString(app, -1)
	slices.Sort(placeholders)
	for _, placeholder := range slices.Compact(placeholders) {
		kind, name, _ := strings.Cut(strings.Trim(placeholder, "{}"), ".")
		var problem string
		if kind == "env" {
			if os.Getenv(name) == "" {
				problem = "is not set"
			}
		} else if text, err := os.ReadFile(name); err != nil {
			problem = "cannot be read"
		} else if len(bytes.TrimSpace(text)) == 0 {
			problem = "is empty"
		} else {
			caddymodule.ExamineSecretFile(&c.Findings, placeholder, name)
		}
		if problem == "" {
			continue
		}
		all = false
		app = strings.ReplaceAll(app, placeholder, "{env."+standIn+"}")
		if c.running != nil {
			c.Warn("secrets", placeholder+" "+problem+" here, so WeChat, the key and the store were not examined; the running gateway was given it",
				fixEnvironment)
			continue
		}
		c.Fault("secrets", placeholder+" "+problem,
			"set it where the gateway is started (with docs/install/wxgate.service: in /etc/wxgate/environment); if it is set there, give this command the same environment with --envfile, or run it as the gateway's user")
	}
	c.config.AppsRaw["wxgate"] = []byte(app)
	_ = os.Setenv(standIn, base64.StdEncoding.EncodeToString(make([]byte, 32)))
	return all
}

// logging has the logs of the configuration, so that provisioning finds those
// that show tokens, and one for its warnings. They write to temporary files.
func (c *checkup) logging() *caddy.Logging {
	logging := &caddy.Logging{Logs: map[string]*caddy.CustomLog{caddy.DefaultLoggerName: new(caddy.CustomLog)}}
	if c.config.Logging != nil {
		for name, log := range c.config.Logging.Logs {
			silent := new(caddy.CustomLog)
			silent.EncoderRaw, silent.Level, silent.Include, silent.Exclude = log.EncoderRaw, log.Level, log.Include, log.Exclude
			logging.Logs[name] = silent
		}
	}
	file := func(name string) json.RawMessage {
		writer, _ := json.Marshal(map[string]any{"output": "file", "filename": name, "roll": false})
		return writer
	}
	for _, log := range logging.Logs {
		log.WriterRaw = file(c.logFile + ".other") // an encoder that writes nowhere would not be asked
	}
	warnings := &caddy.CustomLog{Include: []string{"wxgate", "http.handlers.wxgate"}}
	warnings.WriterRaw, warnings.EncoderRaw, warnings.Level = file(c.logFile), json.RawMessage(`{"format":"wxgate"}`), "WARN"
	logging.Logs["wxgate check"] = warnings
	return logging
}

// addLogged makes findings of the warnings of the gateway's modules while they
// were provisioned and the store was opened.
func (c *checkup) addLogged() {
	text, err := os.ReadFile(c.logFile)
	if err != nil {
		return // nothing was logged
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		var line map[string]any
		if json.Unmarshal(lines.Bytes(), &line) != nil {
			continue
		}
		text, _ := line["msg"].(string)
		message, fix, _ := strings.Cut(text, "; ")
		for _, field := range slices.Sorted(maps.Keys(line)) {
			if !slices.Contains([]string{"level", "ts", "logger", "msg"}, field) {
				message += fmt.Sprintf(" (%s: %v)", field, line[field])
			}
		}
		finding := caddymodule.Finding{Status: caddymodule.StatusWarning, Subject: "configuration", Message: message, Fix: fix}
		if !slices.Contains(c.Findings, finding) {
			c.Findings = append(c.Findings, finding)
		}
	}
}
