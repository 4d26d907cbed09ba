package caddymodule

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/maypok86/otter/v2"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// storeTime bounds the part of a login that comes after WeChat's answer.
const storeTime = 10 * time.Second

// exchange turns codes into sessions, each code once.
type exchange struct {
	app     *App
	codes   usedCodes
	flights singleflight.Group
	lines   *rate.Limiter // of errors about WeChat's replies, which clients may provoke
	unsent  rate.Sometimes
}

func newExchange(a *App) *exchange {
	return &exchange{
		app:    a,
		codes:  takeUsedCodes(codesName, codeLifetime),
		lines:  rate.NewLimiter(refusalLines, refusalBurst),
		unsent: rate.Sometimes{First: 1, Interval: troubleInterval},
	}
}

func (x *exchange) close() { _, _ = stores.Delete(codesName) }

// login exchanges a code and makes a session. Requests that carry the same code
// at the same time share one exchange, which is charged to the source of the first, and get
// the same session; later ones get errCodeSeen. The exchange goes on when the client that
// started it is gone: WeChat has the code by then, and others may wait for it.
func (x *exchange) login(ctx context.Context, source netip.Prefix, appID, code string) (session.Created, error) {
	hash := hashCode(appID, code)
	flight := x.flights.DoChan(string(hash[:]), func() (value any, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("logging in panicked: %v", p)
			}
		}()
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(x.app.ExchangeTimeout)+storeTime)
		defer cancel()
		return x.once(ctx, source, appID, code, hash)
	})
	select {
	case result := <-flight:
		created, _ := result.Val.(session.Created)
		return created, result.Err
	case <-ctx.Done():
		return session.Created{}, ctx.Err()
	}
}

func (x *exchange) once(ctx context.Context, source netip.Prefix, appID, code string, hash codeHash) (session.Created, error) {
	// A code is worth a call only if its session can be kept.
	sessions, err := x.app.sessions()
	if err != nil {
		return session.Created{}, err
	}
	if err := sessions.Room(); err != nil {
		return session.Created{}, err
	}
	if !x.codes.claim(hash) {
		return session.Created{}, errCodeSeen
	}
	refund, err := x.app.limit.take(source, exchanges)
	if err != nil {
		x.codes.release(hash)
		return session.Created{}, err
	}
	user, err := x.ask(ctx, source, appID, code)
	if err != nil {
		if wx, ok := errors.AsType[*wechat.Error](err); ok && !wx.Sent {
			x.codes.release(hash)
			refund()
		}
		x.report(appID, err)
		return session.Created{}, err
	}
	created, err := sessions.Create(ctx, session.Login{
		AppID:      appID,
		OpenID:     user.OpenID,
		UnionID:    user.UnionID,
		SessionKey: user.SessionKey,
	})
	if err != nil {
		return session.Created{}, fmt.Errorf("keeping session: %w", err)
	}
	x.app.metrics.revoked(reasonCap, len(created.Evicted))
	return created, nil
}

// report logs what the operator or WeChat has to fix. What a client did wrong is in the line
// of its login.
func (x *exchange) report(appID string, err error) {
	wx, ok := errors.AsType[*wechat.Error](err)
	if !ok || toAnswer(err).status < http.StatusInternalServerError {
		return
	}
	write := func() {
		x.app.logger.Error("exchange with WeChat failed",
			append(wechatFields(wx), zap.String("appid", appID), zap.String("result", string(wx.Kind)))...)
	}
	switch {
	case !wx.Sent:
		// Every login fails in the same way.
		x.unsent.Do(write)
	case x.lines.Allow():
		write()
	}
}

// wechatFields are what the log says of WeChat's answer: its support asks for
// the rid.
func wechatFields(err *wechat.Error) []zap.Field {
	var fields []zap.Field
	if err.HasErrcode {
		fields = append(fields, zap.Int64("errcode", err.Errcode))
	}
	for _, field := range []struct{ name, value string }{
		{"reason", err.Reason}, {"errmsg", err.Errmsg}, {"rid", err.RID},
	} {
		if field.value != "" {
			fields = append(fields, zap.String(field.name, field.value))
		}
	}
	return fields
}

func (x *exchange) ask(ctx context.Context, source netip.Prefix, appID, code string) (wechat.Code2Session, error) {
	m := x.app.metrics
	m.exchangesInFlight.Inc()
	defer m.exchangesInFlight.Dec()
	start := time.Now()
	user, err := x.app.wechat.Code2SessionFrom(ctx, source.String(), appID, code)
	m.exchanges.WithLabelValues(appID).Observe(time.Since(start).Seconds())
	return user, err
}

// codeLifetime is how long WeChat accepts a code after wx.login gave it.
const codeLifetime = 5 * time.Minute

// maxCodes bounds the memory of codes: about 40 MiB at over 800 logins a second
// for five minutes. Beyond that some are forgotten, and WeChat itself still
// refuses them.
const maxCodes = 1 << 18

// codeHash names a code of one mini program without keeping it.
type codeHash [sha256.Size]byte

func hashCode(appID, code string) codeHash {
	// No appid holds a zero byte, so two pairs cannot make the same text.
	return sha256.Sum256([]byte(appID + "\x00" + code))
}

// usedCodes remembers which codes were sent to WeChat, for as long as they
// could be sent again. It outlives a reload.
type usedCodes struct {
	*otter.Cache[codeHash, struct{}]
}

// The names under which the pool keeps what was used: the codes of wx.login,
// and the proofs of pushes.
const (
	codesName  = "used codes"
	pushesName = "used pushes"
)

func takeUsedCodes(name string, lifetime time.Duration) usedCodes {
	value, _, _ := stores.LoadOrNew(name, func() (caddy.Destructor, error) {
		return newUsedCodes(lifetime), nil
	})
	return value.(usedCodes)
}

func newUsedCodes(lifetime time.Duration) usedCodes {
	return usedCodes{otter.Must(&otter.Options[codeHash, struct{}]{
		MaximumSize: maxCodes, ExpiryCalculator: otter.ExpiryWriting[codeHash, struct{}](lifetime),
	})}
}

// claim marks a code as used. It returns false if it was.
func (c usedCodes) claim(hash codeHash) bool {
	_, claimed := c.SetIfAbsent(hash, struct{}{})
	return claimed
}

// release takes a claim back: the code did not reach WeChat.
func (c usedCodes) release(hash codeHash) { c.Invalidate(hash) }

// Destruct implements caddy.Destructor.
func (c usedCodes) Destruct() error {
	c.StopAllGoroutines()
	return nil
}
