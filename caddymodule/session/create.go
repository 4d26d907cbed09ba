package session

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// maxListed is how many sessions a user record lists at most: the record is
// rewritten at each login, and must not grow with a client that does nothing
// but log in.
const maxListed = 4096

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

	token, h := newToken()
	a := &admission{
		manager: m,
		login:   login,
		hash:    h,
		record: sessionRecord{
			user:            hashUser(login.AppID, login.OpenID),
			storeGeneration: meta.generationOf([]byte(login.AppID)),
			created:         now,
			seen:            now,
			expires:         now + m.lifetime,
			appID:           []byte(login.AppID),
			openID:          []byte(login.OpenID),
		},
	}
	if err := a.commit(ctx); err != nil {
		a.undo(ctx)
		return Created{}, err
	}
	return Created{
		Token:   token,
		Session: m.newSession(h, &a.record, a.unionID),
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
	hash    hash
	record  sessionRecord
	idle    map[hash]bool // which listed sessions have idled out; nil: not known yet

	// Results of the last call of admit.
	unionID []byte
	listed  []listedSession // those before this one
	evicted []listedSession // by the cap
	expired []listedSession
}

// errIdleUnknown ends an admission for which the cap would evict a session,
// before it is known which sessions have idled out.
var errIdleUnknown = errors.New("idle sessions are not known")

// commit lists the session in the user's record, and then writes its own
// record. It is live only when both are there.
func (a *admission) commit(ctx context.Context) error {
	m := a.manager
	err := m.calls.update(ctx, userKey(a.record.user), a.admit)
	if errors.Is(err, errIdleUnknown) {
		a.idle = make(map[hash]bool)
		for _, s := range a.listed {
			a.idle[s.hash] = m.idledOut(ctx, s.hash, a.record.created)
		}
		err = m.calls.update(ctx, userKey(a.record.user), a.admit)
	}
	if err != nil {
		return err
	}
	key := sessionKey(a.hash)
	if err := m.calls.put(ctx, key, m.sealer.seal(key, a.record.encode()), m.ttlUntil(a.record.expires)); err != nil {
		return err
	}
	_ = m.deleteSessions(ctx, slices.Concat(a.evicted, a.expired))
	return m.calls.sync(ctx)
}

// admit is the ChangeFunc of the user's record.
func (a *admission) admit(old []byte) ([]byte, time.Duration, error) {
	m, now := a.manager, a.record.created
	a.evicted, a.expired = nil, nil
	user, opened := m.openUser(a.record.user, old)
	if !opened {
		user = userRecord{appID: a.record.appID, openID: a.record.openID, generation: newGeneration()}
	}
	user.remember(a.login, now)
	a.record.generation, a.unionID = user.generation, user.unionID

	a.listed = user.sessions.decode()
	live := make([]listedSession, 0, len(a.listed)+1)
	for _, s := range a.listed {
		if now >= m.endOfListed(s) || a.idle[s.hash] {
			a.expired = append(a.expired, s)
		} else {
			live = append(live, s)
		}
	}
	slices.SortStableFunc(live, func(x, y listedSession) int { return cmp.Compare(x.created, y.created) })
	if over := len(live) + 1 - m.cap(); over > 0 {
		if a.idle == nil {
			return nil, 0, errIdleUnknown
		}
		a.evicted, live = live[:over], live[over:]
	}
	live = append(live, listedSession{hash: a.hash, created: now, expires: a.record.expires})
	user.sessions = encodeListed(live)
	return m.sealUser(a.record.user, &user)
}

// cap is how many sessions a user may have.
func (m *Manager) cap() int {
	if m.maxPerUser == 0 {
		return maxListed
	}
	return min(m.maxPerUser, maxListed)
}

// idledOut reports whether the idle timeout has surely ended a session. Its
// record may be a tenth behind, and further if renewals could not be written;
// then this process knows better. Without an answer it counts as live.
func (m *Manager) idledOut(ctx context.Context, h hash, now int64) bool {
	if c := m.cache.Load(); c != nil {
		if s, ok := c.sessions.GetIfPresent(h); ok && c.current(s, now) && m.expired(s, now) == nil {
			return false
		}
	}
	record, _, err := m.readSession(ctx, reader{calls: m.calls}, h)
	if err != nil {
		return errors.Is(err, ErrInvalid)
	}
	return now >= record.seen+m.idleTimeout+m.idleTimeout/renewalsPerIdle
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
// so this only keeps the records tidy, and may fail.
func (a *admission) undo(ctx context.Context) {
	m := a.manager
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), backgroundTimeout)
	defer cancel()
	_, _ = m.unlist(ctx, a.record.user, func(s listedSession) bool { return s.hash == a.hash })
	_ = m.calls.delete(ctx, sessionKey(a.hash))
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
func (m *Manager) openUser(h hash, sealed []byte) (user userRecord, opened bool) {
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
func (m *Manager) sealUser(h hash, user *userRecord) ([]byte, time.Duration, error) {
	return m.sealer.seal(userKey(h), user.encode()), m.userTTL(user), nil
}
