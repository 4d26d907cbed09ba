package session

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// MaxPerUser is how many sessions a user has at most, whatever is configured. The
// record that lists them is read for each token that names its user, and rewritten
// at each login and renewal: it must not grow with a client that does nothing but
// log in.
const MaxPerUser = 512

// Created is a session that was just made.
type Created struct {
	Token   string // for the client only
	Session *Session
	Evicted []string // ids of the sessions that MaxPerUser evicted
}

// Create makes a session for a login, and remembers the user's session_key and
// unionid. When it returns nil, the session survives whatever the store
// survives. When it returns an error, nothing has been left that a token opens;
// the error wraps ErrFull if the store has no room.
func (m *Manager) Create(ctx context.Context, login Login) (Created, error) {
	if err := login.check(); err != nil {
		return Created{}, err
	}
	if err := m.Room(); err != nil {
		return Created{}, err
	}
	now := m.now()
	meta, err := m.currentMeta(ctx, m.cache.Load(), reader{calls: m.calls}, now)
	if err == nil && meta == nil {
		meta, err = m.makeMeta(ctx)
	}
	if err != nil {
		return Created{}, err
	}

	user := hashUser(login.AppID, login.OpenID)
	token, h := newToken(user)
	a := &admission{manager: m, login: login, user: user, session: listedSession{
		hash:       h,
		generation: meta.generationOf([]byte(login.AppID)),
		created:    now,
		seen:       now,
		expires:    now + m.lifetime,
	}}
	if err = m.calls.update(ctx, userKey(user), a.admit); err == nil {
		err = m.calls.sync(ctx)
	}
	if err != nil {
		a.undo(ctx)
		return Created{}, err
	}
	return Created{
		Token:   token,
		Session: m.newSession(user, &a.record, a.session),
		Evicted: ids(a.evicted),
	}, nil
}

// check refuses what no record can hold. The names come from WeChat's client,
// which has stricter rules of its own for them.
func (l Login) check() error {
	if l.AppID == "" || l.OpenID == "" || strings.Contains(l.AppID, "\x00") {
		return errors.New("a login without appid or openid")
	}
	for _, s := range []string{l.AppID, l.OpenID, l.UnionID, l.SessionKey} {
		if len(s) > 1024 {
			return errors.New("a login with a name or key over 1024 bytes")
		}
	}
	return nil
}

// An admission is a login on its way into the user's record.
type admission struct {
	manager *Manager
	login   Login
	user    userHash
	session listedSession

	// Results of the last call of admit.
	record  userRecord
	evicted []listedSession
}

// admit is the ChangeFunc of the user's record.
func (a *admission) admit(old []byte) ([]byte, time.Duration, error) {
	m, now := a.manager, a.session.created
	user, opened := m.openUser(a.user, old)
	if !opened {
		user = userRecord{appID: []byte(a.login.AppID), openID: []byte(a.login.OpenID)}
	}
	if !user.holds(a.login.AppID, a.login.OpenID) {
		return nil, 0, errors.New("two users have one hash")
	}
	user.remember(a.login, now)

	live := slices.DeleteFunc(slices.Collect(user.sessions.all()), func(l listedSession) bool {
		return now >= m.endOfListed(l) || now >= m.idleEnd(l)+m.idleTimeout/renewalsPerIdle
	})
	over := len(live) + 1 - m.maxPerUser
	drop := func(which func(listedSession) bool) (dropped []listedSession) {
		live = slices.DeleteFunc(live, func(l listedSession) bool {
			if over <= 0 || !which(l) {
				return false
			}
			over--
			dropped = append(dropped, l)
			return true
		})
		return dropped
	}
	drop(func(l listedSession) bool { return l.generation != a.session.generation }) // RevokeAll has revoked them
	idle := drop(func(l listedSession) bool { return now >= m.idleEnd(l) })
	oldest := drop(func(listedSession) bool { return true }) // they are in front
	a.evicted = slices.Concat(idle, oldest)
	user.sessions = encodeListed(append(live, a.session))
	a.record = user
	return m.sealUser(a.user, &user)
}

// idleEnd returns when a session idles out, as far as is known here. Its record
// may be a tenth of the idle timeout behind, and further if renewals could not be
// written; then this process may know better.
func (m *Manager) idleEnd(l listedSession) int64 {
	seen := l.seen
	if c := m.cache.Load(); c != nil {
		if s, ok := c.sessions.GetIfPresent(l.hash); ok {
			seen = max(seen, s.seen.Load())
		}
	}
	return seen + m.idleTimeout
}

// remember keeps what WeChat answered about the user. The newest session_key
// wins, because WeChat takes the former one out of use.
func (r *userRecord) remember(login Login, now int64) {
	if login.UnionID != "" {
		r.unionID = []byte(login.UnionID)
	}
	if login.SessionKey != "" && login.SessionKey != string(r.key) {
		r.previous, r.key, r.keyReceived = r.key, []byte(login.SessionKey), now
	}
}

// undo removes what a login that failed may have left. No client has its token,
// so this only keeps the record tidy, and may fail.
func (a *admission) undo(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), backgroundTimeout)
	defer cancel()
	_ = a.manager.unlist(ctx, a.user, func(l listedSession) bool { return l.hash == a.session.hash })
}

func ids(sessions []listedSession) []string {
	var list []string
	for _, s := range sessions {
		list = append(list, s.hash.id())
	}
	return list
}

// openUser opens a user record for a change of it, and reports whether there is
// one that opens.
func (m *Manager) openUser(h userHash, sealed []byte) (user userRecord, opened bool) {
	if sealed == nil {
		return userRecord{}, false
	}
	plain, _, err := m.sealer.open(nil, userKey(h), sealed)
	if err == nil {
		user, err = decodeUser(plain)
	}
	if err != nil {
		_ = m.unreadable(err)
	}
	return user, err == nil
}

// sealUser returns what a ChangeFunc writes of a user record.
func (m *Manager) sealUser(h userHash, user *userRecord) ([]byte, time.Duration, error) {
	return m.sealer.seal(userKey(h), user.encode()), m.userTTL(user), nil
}
