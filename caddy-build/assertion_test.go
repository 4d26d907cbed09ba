package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
)

const (
	jwksPath  = "/.well-known/wxgate/jwks.json"
	nextKey   = "b3RoZXIga2V5IGZvciB0ZXN0cywgMzIgYnl0ZXMgbG8="
	assertion = "X-Wxgate-Assertion"
)

const assertionSite = "inject openid X-OpenID\ninject assertion " + assertion

// jwks fetches a gateway's key set as a verifier would.
func jwks(t *testing.T, g *gatewaytest.Gateway) (jose.JSONWebKeySet, gatewaytest.Response) {
	t.Helper()
	resp := g.Get(jwksPath)
	require.Equal(t, http.StatusOK, resp.Status, resp.Body)
	var set jose.JSONWebKeySet
	require.NoError(t, json.Unmarshal([]byte(resp.Body), &set))
	return set, resp
}

type claims struct {
	jwt.Claims
	AppID   string `json:"appid"`
	UnionID string `json:"unionid"`
	Session string `json:"sid"`
}

// verify is what an application does with the header.
func verify(header string, keys *jose.JSONWebKeySet, audience string, now time.Time) (c claims, err error) {
	token, err := jwt.ParseSigned(header, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return c, err
	}
	if err := token.Claims(keys, &c); err != nil {
		return c, err
	}
	return c, c.ValidateWithLeeway(jwt.Expected{Issuer: "wxgate", AnyAudience: jwt.Audience{audience}, Time: now}, 5*time.Second)
}

// assertionSent returns the assertion of the one request that the upstream got.
func assertionSent(t *testing.T, g *gatewaytest.Gateway) string {
	t.Helper()
	received := g.Upstream.Take()
	require.Len(t, received, 1)
	lines := received[0].Lines(assertion)
	require.Len(t, lines, 1)
	return lines[0]
}

func TestAssertionVerifies(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: assertionSite + "\npublic /pub/*"})
	token := g.Login("alice").Token
	keys, resp := jwks(t, g)
	require.Equal(t, "application/jwk-set+json", resp.Header.Get("Content-Type"))
	require.Equal(t, "public, max-age=300", resp.Header.Get("Cache-Control"))
	require.Len(t, keys.Keys, 1, "the key of the key file")
	require.True(t, keys.Keys[0].IsPublic())
	require.Equal(t, http.StatusMethodNotAllowed, g.Post(jwksPath, "").Status)

	require.Equal(t, http.StatusOK, g.Get("/orders", gatewaytest.Token(token), assertion+": forged", "x_wxgate.assertion: forged").Status)
	sent := assertionSent(t, g)
	c, err := verify(sent, &keys, gatewaytest.AppID, time.Now())
	require.NoError(t, err)
	require.Equal(t, g.OpenID("alice"), c.Subject)
	require.Equal(t, gatewaytest.AppID, c.AppID)
	require.Equal(t, g.WeChat.UnionID("alice"), c.UnionID)
	require.Len(t, c.Session, 16)
	require.Equal(t, time.Minute, c.Expiry.Time().Sub(c.IssuedAt.Time()))

	require.Equal(t, http.StatusOK, g.Get("/other", gatewaytest.Token(token)).Status)
	require.Equal(t, sent, assertionSent(t, g), "it is made once")

	// What a verifier must refuse.
	_, err = verify(sent, &keys, gatewaytest.OtherAppID, time.Now())
	require.ErrorIs(t, err, jwt.ErrInvalidAudience)
	_, err = verify(sent, &keys, gatewaytest.AppID, time.Now().Add(2*time.Minute))
	require.ErrorIs(t, err, jwt.ErrExpired)

	// Without a session there is none, however it is spelled.
	for _, path := range []string{"/pub/a"} {
		require.Equal(t, http.StatusOK, g.Get(path, assertion+": "+sent, "x_wxgate_assertion: "+sent).Status)
		received := g.Upstream.Take()
		require.Len(t, received, 1)
		require.Empty(t, received[0].Lines(assertion))
	}
	require.Equal(t, http.StatusUnauthorized, g.Get("/orders", assertion+": "+sent).Status)
}

// TestAssertionInNode lets Node's own crypto verify what the gateway sends.
func TestAssertionInNode(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: assertionSite})
	token := g.Login("alice").Token
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
	out, err := gatewaytest.Command(t, "node", "-e", `
		const crypto = require('node:crypto');
		const [jwt, url] = process.argv.slice(1);
		(async () => {
			const [header, payload, signature] = jwt.split('.');
			const { alg, kid } = JSON.parse(Buffer.from(header, 'base64url'));
			const { keys } = await (await fetch(url)).json();
			const key = crypto.createPublicKey({ key: keys.find((k) => k.kid === kid), format: 'jwk' });
			const signed = (text) => crypto.verify('sha256', Buffer.from(text),
				{ key, dsaEncoding: 'ieee-p1363' }, Buffer.from(signature, 'base64url'));
			const forged = Buffer.from(payload, 'base64url').toString().replace('"sub":"', '"sub":"x');
			console.log(alg, signed(header + '.' + payload), signed(header + '.' + Buffer.from(forged).toString('base64url')));
		})();
	`, assertionSent(t, g), g.URL+jwksPath).CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, "ES256 true false", strings.TrimSpace(string(out)))
}

func TestAssertionOptions(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: assertionSite + `
		assertion {
			issuer gate.example.com
			audience orders billing
			lifetime 10m
			jwks /keys.json
		}`})
	token := g.Login("alice").Token
	require.Equal(t, http.StatusOK, g.Get("/keys.json").Status)
	require.Equal(t, http.StatusUnauthorized, g.Get(jwksPath).Status)
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
	parsed, err := jwt.ParseSigned(assertionSent(t, g), []jose.SignatureAlgorithm{jose.ES256})
	require.NoError(t, err)
	var c claims
	require.NoError(t, parsed.UnsafeClaimsWithoutVerification(&c))
	require.Equal(t, "gate.example.com", c.Issuer)
	require.Equal(t, jwt.Audience{"orders", "billing"}, c.Audience)
	require.Equal(t, 10*time.Minute, c.Expiry.Time().Sub(c.IssuedAt.Time()))
}

// TestAssertionKeyRotates replaces the encryption key under load, the new one
// second first. A verifier that holds the key set of the step before knows every
// key that it meets.
func TestAssertionKeyRotates(t *testing.T) {
	gatewaytest.Needs(t, "time")
	with := func(keys string) gatewaytest.Config {
		return gatewaytest.Config{Site: assertionSite, App: "encryption_key " + keys}
	}
	g := gatewaytest.Start(t, with(someKey))
	tokens := make([]string, 20)
	for i := range tokens {
		tokens[i] = g.Login(fmt.Sprint("user", i)).Token
	}
	for _, step := range []string{someKey + " " + nextKey, nextKey + " " + someKey, nextKey} {
		known, _ := jwks(t, g)
		stop := make(chan struct{})
		var load sync.WaitGroup
		for worker := range 4 {
			load.Go(func() {
				for i := worker; ; i++ {
					select {
					case <-stop:
						return
					default:
						// Caddy resets a new connection now and then in a reload.
						_, _ = gatewaytest.SendRaw(g.Addr, "GET / HTTP/1.1\nHost: "+g.Addr+"\nConnection: close\n"+gatewaytest.Token(tokens[i%len(tokens)])+"\n\n")
					}
				}
			})
		}
		out, err := g.Reload(with(step))
		require.NoError(t, err, out)
		for range 20 {
			g.Get("/", gatewaytest.Token(tokens[0]))
		}
		close(stop)
		load.Wait()
		seen := 0
		for _, received := range g.Upstream.Take() {
			for _, line := range received.Lines(assertion) {
				_, err := verify(line, &known, gatewaytest.AppID, time.Now())
				require.NoError(t, err, "in the step to %s", step)
				seen++
			}
		}
		require.Greater(t, seen, 20)
	}
}

func TestAssertionOfTwoNodes(t *testing.T) {
	redis := redistest.Start(t)
	cfg := onRedis(redis.Addr, "")
	cfg.Site = assertionSite
	a, b := gatewaytest.Start(t, cfg), gatewaytest.Start(t, cfg)
	token := a.Login("alice").Token
	require.Equal(t, http.StatusOK, b.Get("/", gatewaytest.Token(token)).Status)
	keys, _ := jwks(t, a)
	c, err := verify(assertionSent(t, b), &keys, gatewaytest.AppID, time.Now())
	require.NoError(t, err)
	require.Equal(t, a.OpenID("alice"), c.Subject)
}
