package caddymodule

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize/english"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// How grave a finding is.
const (
	StatusOK      = "ok"
	StatusWarning = "warning"
	StatusFault   = "fault"
)

// A Finding is one line of the report of `caddy wxgate check`. It holds no secret.
type Finding struct {
	Status  string `json:"status"`
	Subject string `json:"subject"` // what was examined, such as a site
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"` // what to do
}

// Findings collects the lines of the report.
type Findings []Finding

// OK adds what is well.
func (f *Findings) OK(subject, format string, args ...any) {
	*f = append(*f, Finding{Status: StatusOK, Subject: subject, Message: fmt.Sprintf(format, args...)})
}

// Warn adds what may be wrong.
func (f *Findings) Warn(subject, message, fix string) {
	*f = append(*f, Finding{StatusWarning, subject, message, fix})
}

// Fault adds what is wrong.
func (f *Findings) Fault(subject, message, fix string) {
	*f = append(*f, Finding{StatusFault, subject, message, fix})
}

// Error adds an error as a fault. The errors of this project are what is wrong
// and, after a semicolon, what to do.
func (f *Findings) Error(subject string, err error) {
	message, fix, _ := strings.Cut(err.Error(), "; ")
	f.Fault(subject, message, fix)
}

// askTimeout bounds each question over the network.
const askTimeout = 5 * time.Second

// Examine examines what an App that was provisioned and does not run needs:
// WeChat, the mini programs' standing there, the encryption key and the store.
// running is the gateway that runs, or nil: a store that it has open is not opened.
func (a *App) Examine(ctx context.Context, running *adminapi.Stats) Findings {
	var f Findings
	reachable := a.examineWeChat(ctx, &f)
	secrets, err := a.resolveSecrets()
	if err != nil {
		f.Error("configuration", err)
	}
	for _, mp := range secrets {
		if reachable {
			a.examineMiniProgram(ctx, &f, mp)
		} else {
			f.Warn("miniprogram "+mp.AppID, "WeChat could not be asked about its secret", "fix the connection to WeChat first")
		}
	}
	keys := a.examineKeys(&f, running)
	a.examineStore(ctx, &f, running, keys)
	return f
}

// asker returns a client that asks one question, and follows no redirect.
func asker(transport *http.Transport) *http.Client {
	transport.DisableKeepAlives = true
	return &http.Client{
		Transport:     transport,
		Timeout:       askTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// examineWeChat sends WeChat's host a request without any secret. Its answer
// also has the time.
func (a *App) examineWeChat(ctx context.Context, f *Findings) bool {
	transport := new(http.Transport)
	if proxy, _, err := resolveProxy(a.WeChatProxy); err != nil {
		f.Error("wechat", err)
		return false
	} else if u, err := url.Parse(proxy); err == nil && proxy != "" {
		transport.Proxy = http.ProxyURL(u)
	}
	client := asker(transport)
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, a.WeChatAPI, nil)
	if err != nil {
		f.Error("wechat", err)
		return false
	}
	begin := time.Now()
	resp, err := client.Do(req)
	took := time.Since(begin)
	if err != nil {
		if cause, ok := errors.AsType[*url.Error](err); ok {
			err = cause.Err // without the URL
		}
		f.Fault("wechat", fmt.Sprintf("%s does not answer: %v", a.WeChatAPI, err),
			"this machine needs DNS and a way out to that host (usually port 443); behind a proxy: wechat_proxy <url>; a certificate that is not valid yet or any more may be a wrong clock")
		return false
	}
	defer resp.Body.Close()
	f.OK("wechat", "%s answers in %d ms", a.WeChatAPI, took.Milliseconds())
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		examineClock(f, begin.Add(took/2).Sub(date).Truncate(time.Second))
	}
	return true
}

// The clock decides when sessions end and how old open data is. The header Date
// has whole seconds.
const (
	clockWarnLimit  = 10 * time.Second
	clockFaultLimit = time.Minute
)

func examineClock(f *Findings, ahead time.Duration) {
	const fix = "set it, and keep it right: timedatectl set-ntp true"
	message := fmt.Sprintf("it is %v ahead of WeChat's", ahead)
	if ahead < 0 {
		message = fmt.Sprintf("it is %v behind WeChat's", -ahead)
	}
	switch {
	case ahead.Abs() >= clockFaultLimit:
		f.Fault("clock", message+": sessions end at the wrong time, and open data looks too old or too new", fix)
	case ahead.Abs() >= clockWarnLimit:
		f.Warn("clock", message, fix)
	default:
		f.OK("clock", "agrees with WeChat's")
	}
}

// examineMiniProgram asks WeChat about a code that cannot be one.
func (a *App) examineMiniProgram(ctx context.Context, f *Findings, mp wechat.MiniProgram) {
	subject := "miniprogram " + mp.AppID
	begin := time.Now()
	err := a.askWeChat(ctx, mp.AppID, mp.Secret)
	took := time.Since(begin)
	wx, _ := errors.AsType[*wechat.Error](err)
	switch {
	case err == nil:
		f.Warn(subject, "a made-up code was accepted, so the server at wechat_api is not WeChat", "set wechat_api to https://api.weixin.qq.com, or remove it")
	case judgedCode(err):
		f.OK(subject, "WeChat accepts the appid and the secret (%d ms)", took.Milliseconds())
	case mp.OldSecret != "" && judgedCode(a.askWeChat(ctx, mp.AppID, mp.OldSecret)):
		f.Warn(subject, "WeChat refuses the new secret and accepts the old one, which the gateway uses instead",
			"finish the change at mp.weixin.qq.com, or correct the new secret")
	case errors.Is(err, wechat.Busy), errors.Is(err, wechat.RateLimited):
		f.Warn(subject, "WeChat is too busy to judge the secret: "+wx.Reason, "try again in a minute")
	default:
		f.Fault(subject, err.Error(), cureOf(err, "copy the AppID and AppSecret from mp.weixin.qq.com; see docs/troubleshooting.md"))
	}
}

// cureOf returns what an operator does about an error of WeChat's, or else otherwise.
func cureOf(err error, otherwise string) string {
	if wx, ok := errors.AsType[*wechat.Error](err); ok {
		return cmp.Or(wx.Cure(), otherwise)
	}
	return otherwise
}

// judgedCode reports whether WeChat accepted the secret and went on to the code.
func judgedCode(err error) bool {
	return errors.Is(err, wechat.InvalidCode) || errors.Is(err, wechat.CodeUsed)
}

func (a *App) askWeChat(ctx context.Context, appID, secret string) error {
	proxy, _, err := resolveProxy(a.WeChatProxy)
	if err != nil {
		return err
	}
	client, err := wechat.NewClient(wechat.Config{
		BaseURL: a.WeChatAPI, ProxyURL: proxy, Timeout: askTimeout,
		MiniPrograms: []wechat.MiniProgram{{AppID: appID, Secret: secret}},
	})
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Code2Session(ctx, appID, "wxgate-check-"+rand.Text())
	return err
}

// examineKeys returns the encryption keys, or nil if they cannot be read here.
func (a *App) examineKeys(f *Findings, running *adminapi.Stats) [][]byte {
	const subject = "encryption key"
	keys, where := a.keys, "encryption_key"
	if a.keyFile != "" {
		where = a.keyFile
		text, err := os.ReadFile(a.keyFile)
		exists, _ := a.module.(Existing)
		switch {
		case errors.Is(err, fs.ErrNotExist) && running == nil && exists != nil && exists.StoreExists():
			f.Fault(subject, a.keyFile+" is gone, but the session store exists, so the gateway will not start", "restore the file from your backup, or remove the store to end all sessions")
			return nil
		case errors.Is(err, fs.ErrNotExist) && running == nil:
			f.OK(subject, "%s will be made at the first start", a.keyFile)
			return nil
		case err != nil && running != nil:
			f.OK(subject, "not readable here; the running gateway has its own")
			return nil
		case errors.Is(err, fs.ErrPermission):
			f.Warn(subject, a.keyFile+" cannot be read by this user", "run this command as the gateway's user: sudo -u wxgate caddy wxgate check …")
			return nil
		case err == nil:
			var key []byte
			key, err = decodeKey(strings.TrimSpace(string(text)))
			keys = [][]byte{key}
		}
		if err != nil {
			f.Fault(subject, fmt.Sprintf("%s: %v", a.keyFile, err), "restore the file from your backup")
			return nil
		}
		ExamineSecretFile(f, subject, a.keyFile)
	}
	if running != nil && running.KeyID != "" && a.keyFile != "" && session.KeyID(keys[0]) != running.KeyID {
		f.Warn(subject, where+" is not the key of the running gateway, which may run as another user and have its own", "run this command as the gateway's user: sudo -u wxgate caddy wxgate check …")
		return nil
	}
	if running != nil && running.KeyID != "" && !slices.ContainsFunc(keys, func(key []byte) bool { return session.KeyID(key) == running.KeyID }) {
		f.Fault(subject, where+" is not the key of the running gateway: after a restart no session could be opened", "restore the earlier key, or put it behind the new one: encryption_key NEW OLD")
		return nil
	}
	f.OK(subject, "%s, %s", where, english.Plural(len(keys), "key", ""))
	return keys
}

// ExamineSecretFile adds a fault if every user of this machine can read a file
// with a secret in it. In containers a secret is often mode 0444, where no other
// user can get at it.
func ExamineSecretFile(f *Findings, subject, path string) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return
	}
	info, err := os.Stat(real)
	if err != nil || info.Mode().Perm()&0o007 == 0 || os.PathSeparator == '\\' { // Windows has no such modes
		return
	}
	// Docker and compose mount secrets there; Kubernetes mounts a secret as a
	// link into a directory whose name begins with two dots.
	if strings.HasPrefix(real, "/run/secrets/") || strings.Contains(real, "/..") {
		return
	}
	for dir := filepath.Dir(real); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if above, err := os.Stat(dir); err != nil || above.Mode().Perm()&0o001 == 0 {
			return // others cannot enter
		}
	}
	f.Fault(subject, fmt.Sprintf("every user of this machine can read %s (mode %04o)", path, info.Mode().Perm()), "chmod 600 "+path+", and make sure that it belongs to the gateway's user")
}

// openForCheckTimeout bounds the opening of a store.
const openForCheckTimeout = 20 * time.Second

// examineStore examines the store, and opens it unless the running gateway has it.
func (a *App) examineStore(ctx context.Context, f *Findings, running *adminapi.Stats, keys [][]byte) {
	title := StoreTitle(a.module)
	subject := "store " + title
	inUse := running != nil && running.Store.Name == title
	// The default directory is that of the user, who may be another one here.
	if data := caddy.AppDataDir(); running != nil && !inUse && strings.Contains(title, data) {
		f.OK(subject, "not examined: the running gateway has the default directory of its own user, %s", running.Store.Name)
		return
	}
	if running != nil && !inUse {
		f.Warn(subject, "the running gateway keeps its sessions in another store, "+running.Store.Name+": with this configuration its users log in again", "copy them first: caddy wxgate migrate")
	}
	if inUse && running.Store.Options != storeOptions(a.module) {
		f.Warn(subject, fmt.Sprintf("the running gateway has it open with other options (%s, now %s), so a reload will be refused", running.Store.Options, storeOptions(a.module)), "restart Caddy")
	}
	if examiner, ok := a.module.(StoreExaminer); ok && !examiner.ExamineStore(f, inUse) {
		return
	}
	_, shared := a.module.(SharedByNodes)
	if inUse && !shared {
		f.OK(subject, "in use by the running gateway")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, openForCheckTimeout)
	defer cancel()
	store, err := a.module.Open(ctx)
	if err != nil {
		message, fix, cured := strings.Cut(err.Error(), "; ")
		if !cured {
			fix = "start its server, or correct the option store; if the gateway has it open, give this command the --address of the admin endpoint; see docs/troubleshooting.md"
		}
		f.Fault(subject, message, fix)
		return
	}
	defer store.Close()
	if len(keys) == 0 {
		f.OK(subject, "opens; whether the encryption key is the store's is not known")
		return
	}
	used, err := session.CheckKeys(ctx, store, keys)
	switch {
	case errors.Is(err, session.ErrWrongKey):
		f.Fault(subject, "it was sealed with another encryption key", "put the earlier key behind the new one (encryption_key NEW OLD), or restore the key file from your backup; or remove the store, which ends all sessions")
	case errors.Is(err, session.ErrVersion):
		f.Fault(subject, err.Error(), "run the version of wxgate that wrote it, or remove the store, which ends all sessions")
	case errors.Is(err, session.ErrDamaged):
		f.Fault(subject, err.Error(), "start the gateway: it replaces the record, and all users log in again")
	case err != nil:
		f.Error(subject, err)
	case !used:
		f.OK(subject, "opens; no gateway has used it yet")
	default:
		f.OK(subject, "opens; the encryption key is the store's")
	}
}
