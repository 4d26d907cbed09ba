package session

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// maxListed is how many sessions a user record lists at most: the record
	// is rewritten at each login, and must not grow with a client that does
	// nothing but log in.
	maxListed = 4096

	// admitAttempts is how often a login starts over because all sessions of
	// the user were ended while it was under way.
	admitAttempts = 8

	eventUserReplaced = "a damaged user record has been started afresh: the user's earlier sessions have ended"
)

// Created is a session that was just made.
type Created struct {
	Token   string // for the client, and nobody else
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
	meta, err := m.currentMeta(ctx)
	if err != nil {
		return Created{}, err
	}

	now := m.clock.read()
	token, h := newToken()
	a := &admission{
		manager: m,
		login:   login,
		now:     now,
		hash:    h,
		record: sessionRecord{
			user:    meta.user(login.AppID, login.OpenID),
			store:   meta.id(),
			created: now,
			seen:    now,
			expires: now + m.lifetime,
			appID:   []byte(login.AppID),
			openID:  []byte(login.OpenID),
		},
	}
	if err := a.prepare(ctx); err != nil {
		return Created{}, err
	}
	if err := a.commit(ctx); err != nil {
		a.undo(ctx)
		return Created{}, err
	}
	return Created{
		Token:   token,
		Session: m.newSession(h, &a.record, []byte(a.user.unionID)),
		Evicted: ids(a.evicted),
	}, nil
}

// check refuses what no record can hold. The names come from WeChat's client,
// which has its own, stricter idea of them.
func (l Login) check() error {
	if l.AppID == "" || l.OpenID == "" {
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
	now     int64
	hash    hash
	record  sessionRecord
	dead    map[hash]bool // listed sessions that have ended by idle timeout

	// What the last call of admit did.
	user      *userRecord
	evicted   []listedSession // by the cap
	unopened  error           // why the former record was given up
	moved     uint64          // the generation, if it was not the expected one
	collected []listedSession // expired
}

// errMoved says that the user's generation is not the one expected.
var errMoved = errors.New("the user's generation has moved")

// prepare reads the user's record for the generation that the session record
// needs, and finds out which listed sessions the cap need not count.
func (a *admission) prepare(ctx context.Context) error {
	m := a.manager
	value, err := m.calls.get(ctx, userKey(a.record.user))
	if errors.Is(err, ErrNotFound) {
		a.record.generation = newGeneration()
		return nil
	}
	if err != nil {
		return err
	}
	user, err := m.decodeUser(userKey(a.record.user), value)
	if errors.Is(err, errUnopened) {
		a.record.generation = newGeneration() // admit judges
		return nil
	}
	if err != nil {
		return err
	}
	a.record.generation = user.generation
	if len(user.sessions) < m.cap() {
		return nil
	}
	a.dead = make(map[hash]bool)
	for _, s := range user.sessions {
		a.dead[s.hash] = m.idledOut(ctx, s.hash, a.now)
	}
	return nil
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
	if m.cache != nil {
		if s := m.cache.get(&h, now); s != nil && !m.expired(s, now) {
			return false
		}
	}
	record, _, err := m.readSession(ctx, h)
	if err != nil {
		return errors.Is(err, ErrInvalid)
	}
	return now >= record.seen+m.idleTimeout+m.idleTimeout/renewalsPerIdle
}

// commit writes the session and then lists it in the user's record, which is
// what makes it live.
func (a *admission) commit(ctx context.Context) error {
	m := a.manager
	err := errMoved
	for range admitAttempts {
		key := sessionKey(a.hash)
		if err = m.calls.put(ctx, key, m.sealer.seal(key, a.record.encode()), m.ttlUntil(a.record.expires)); err != nil {
			return err
		}
		if err = m.calls.update(ctx, userKey(a.record.user), a.admit); !errors.Is(err, errMoved) {
			break
		}
		a.record.generation = a.moved
	}
	if err != nil {
		return err
	}
	if a.unopened != nil {
		m.reporter.tell(eventUserReplaced, a.unopened)
	}
	m.deleteSessions(ctx, slices.Concat(a.evicted, a.collected))
	return m.calls.sync(ctx)
}

// admit is the ChangeFunc of the user's record.
func (a *admission) admit(old []byte) ([]byte, time.Duration, error) {
	m := a.manager
	a.evicted, a.collected, a.unopened = nil, nil, nil
	user := &userRecord{
		appID:      a.login.AppID,
		openID:     a.login.OpenID,
		generation: a.record.generation,
	}
	if old != nil {
		found, err := m.decodeUser(userKey(a.record.user), old)
		switch {
		case err == nil:
			user = found
		case errors.Is(err, errUnopened):
			a.unopened = err
		default:
			return nil, 0, err
		}
	}
	if user.generation != a.record.generation {
		a.moved = user.generation
		return nil, 0, errMoved
	}

	user.remember(a.login, a.now)
	live := user.sessions[:0]
	for _, s := range user.sessions {
		if a.now >= m.endOfListed(s) || a.dead[s.hash] {
			a.collected = append(a.collected, s)
		} else {
			live = append(live, s)
		}
	}
	slices.SortStableFunc(live, func(x, y listedSession) int { return cmp.Compare(x.created, y.created) })
	if over := len(live) + 1 - m.cap(); over > 0 {
		a.evicted = slices.Clone(live[:over])
		live = live[over:]
	}
	live = append(live, listedSession{hash: a.hash, created: a.record.created, expires: a.record.expires})
	user.sessions = live
	a.user = user
	return m.sealer.seal(userKey(a.record.user), user.encode()), m.userTTL(user), nil
}

// remember keeps what a login told about the user. The newest session_key
// wins, because WeChat takes the former one out of use.
func (r *userRecord) remember(login Login, now int64) {
	if login.UnionID != "" {
		r.unionID = login.UnionID
	}
	if login.SessionKey == "" || login.SessionKey == r.key {
		return
	}
	r.previous, r.replaced = r.key, now
	r.key, r.keyed = login.SessionKey, now
}

// undo removes what a login that failed may have left. Nobody has its token,
// so this only keeps the record tidy, and may fail.
func (a *admission) undo(ctx context.Context) {
	m := a.manager
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), backgroundTimeout)
	defer cancel()
	_, _ = m.unlist(ctx, a.record.user, func(s listedSession) bool { return s.hash == a.hash })
	_ = m.calls.delete(ctx, sessionKey(a.hash))
}

// deleteSessions frees the space of sessions that have ended. They are dead
// whether this succeeds or not, and their ttl frees them otherwise.
func (m *Manager) deleteSessions(ctx context.Context, sessions []listedSession) {
	for _, s := range sessions {
		if m.calls.delete(ctx, sessionKey(s.hash)) != nil {
			return
		}
	}
}

func newGeneration() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

func ids(sessions []listedSession) []string {
	var list []string
	for _, s := range sessions {
		list = append(list, s.hash.id())
	}
	return list
}

// errUnopened says that a user record does not open, so that what it said is
// lost. It wraps nothing that callers outside may ask for.
var errUnopened = errors.New("a user record does not open")

// decodeUser opens and decodes a user record for a change of it.
func (m *Manager) decodeUser(key string, value []byte) (*userRecord, error) {
	plain, _, err := m.sealer.open(key, value)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnopened, err)
	}
	view, err := viewUser(plain)
	if err != nil {
		return nil, err
	}
	return view.record(), nil
}
