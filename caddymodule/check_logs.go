package caddymodule

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/wxgate/wxgate/caddymodule/identity"
)

const subjectLogs = "logs"

// checkLogs looks for logs that show tokens: Caddy logs a request's headers as
// they came in, and redacts only those that it knows. Requests that end in an
// error of Caddy's, such as 502, are logged even where there is no access log.
func (d *doctor) checkLogs() {
	shown := make(map[Finding]bool)
	for _, s := range d.sites() {
		for _, header := range tokenHeaders(s.handler) {
			for _, f := range d.showing(s.server.Logs, header) {
				if !shown[f] {
					shown[f] = true
					d.findings = append(d.findings, f)
				}
			}
		}
	}
	if len(shown) == 0 {
		d.ok(subjectLogs, "no log of requests shows a token")
	}
}

// tokenHeaders are the headers in which a site looks for tokens. Caddy itself
// hides Authorization.
func tokenHeaders(h *Handler) []string {
	from := h.TokenFrom
	if len(from) == 0 {
		from = []string{defaultToken}
	}
	return slices.DeleteFunc(slices.Clone(from), func(source string) bool { return source == identity.Bearer })
}

// showing returns a finding for each log that shows a header of the requests of
// a server.
func (d *doctor) showing(server *caddyhttp.ServerLogConfig, header string) []Finding {
	var found []Finding
	logs := d.logs()
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		if hides(logs[name].EncoderRaw, header) {
			continue
		}
		fix := "give the log this format:\nformat filter {\n\trequest>headers>" + header + " delete\n\twrap json\n}"
		switch {
		case server != nil && accepts(logs[name], loggerNames("http.log.access", server)):
			found = append(found, Finding{StatusFault, subjectLogs, "the access log " + name + " shows the header " + header + ", and whoever has it is the user", fix})
		case accepts(logs[name], loggerNames("http.log.error", server)):
			found = append(found, Finding{StatusWarning, subjectLogs, "the log " + name + " shows the header " + header + " of requests that end in an error of Caddy's, and whoever has it is the user", fix})
		}
	}
	return found
}

// loggerNames are the loggers of a server's requests.
func loggerNames(base string, server *caddyhttp.ServerLogConfig) []string {
	if server == nil {
		return []string{base}
	}
	var names []string
	for _, own := range server.LoggerNames {
		for _, name := range own {
			names = append(names, strings.TrimSuffix(base+"."+name, "."))
		}
	}
	if len(names) == 0 || server.DefaultLoggerName != "" {
		names = append(names, strings.TrimSuffix(base+"."+server.DefaultLoggerName, "."))
	}
	return names
}

// logs are the logs of the configuration and, if it does not set it, Caddy's
// default one.
func (d *doctor) logs() map[string]*caddy.CustomLog {
	logs := make(map[string]*caddy.CustomLog)
	if d.conf.Logging != nil {
		maps.Copy(logs, d.conf.Logging.Logs)
	}
	if logs["default"] == nil {
		logs["default"] = new(caddy.CustomLog)
	}
	return logs
}

// accepts reports whether a log takes the lines of one of the loggers. Of the
// names that it includes and excludes, the longest that fits decides.
func accepts(log *caddy.CustomLog, loggers []string) bool {
	longest := func(patterns []string, logger string) int {
		n := -1
		for _, pattern := range patterns {
			if pattern == "*" || pattern == logger || strings.HasPrefix(logger, pattern+".") {
				n = max(n, len(pattern))
			}
		}
		return n
	}
	return slices.ContainsFunc(loggers, func(logger string) bool {
		in, out := longest(log.Include, logger), longest(log.Exclude, logger)
		return (len(log.Include) == 0 || in >= 0) && out <= in
	})
}

// hides reports whether a log's encoder removes a request header.
func hides(encoder json.RawMessage, header string) bool {
	var filter struct {
		Format string `json:"format"`
		Fields map[string]struct {
			Filter string `json:"filter"`
		} `json:"fields"`
	}
	if len(encoder) == 0 || json.Unmarshal(encoder, &filter) != nil || filter.Format != "filter" {
		return false
	}
	for field, f := range filter.Fields {
		if field == "request>headers" && f.Filter == "delete" {
			return true
		}
		name, ok := strings.CutPrefix(field, "request>headers>")
		if ok && strings.EqualFold(name, header) && (f.Filter == "delete" || f.Filter == "replace" || f.Filter == "hash") {
			return true
		}
	}
	return false
}
