package gatewaytest

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A Response is an answer with its body read.
type Response struct {
	Status int
	Header http.Header
	Body   string
}

// ErrorName is the name in an answer of the gateway itself.
func (r Response) ErrorName() string {
	var body struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal([]byte(r.Body), &body)
	return body.Error
}

// Raw sends text as it stands over a new connection, with \n for CRLF, and
// reads one answer.
//
// Where Caddy hands a listener over, it closes a few connections that it has
// just accepted, so after a reload the text may be sent again.
func (g *Gateway) Raw(text string) Response {
	g.tb.Helper()
	for {
		conn, err := g.dial()
		require.NoError(g.tb, err)
		resp, err := exchange(conn, text)
		if errors.Is(err, errNoAnswer) && time.Since(g.reloaded) < time.Second {
			continue
		}
		require.NoError(g.tb, err)
		return resp
	}
}

// errNoAnswer is returned when a connection is closed before the first byte of an
// answer.
var errNoAnswer = errors.New("the connection was closed without an answer")

// SendRaw is Raw for any address.
func SendRaw(addr, text string) (Response, error) { return SendRawFrom("", addr, text) }

// SendRawFrom is SendRaw from a loopback address of one's own choice.
func SendRawFrom(source, addr, text string) (Response, error) {
	dialer := net.Dialer{Timeout: patience}
	if source != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
	}
	conn, err := dialer.Dial("tcp", addr)
	if err != nil {
		return Response{}, err
	}
	return exchange(conn, text)
}

// exchange sends a text and reads one answer.
func exchange(conn net.Conn, text string) (Response, error) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return Response{}, err
	}
	if _, err := io.WriteString(conn, strings.ReplaceAll(text, "\n", "\r\n")); err != nil {
		return Response{}, err
	}
	method, _, _ := strings.Cut(text, " ")
	answer := bufio.NewReader(conn)
	if _, err := answer.Peek(1); errors.Is(err, io.EOF) {
		return Response{}, errNoAnswer
	}
	return ReadResponse(http.ReadResponse(answer, &http.Request{Method: method}))
}

// SendAndLeave sends text as it stands and hangs up without reading an answer.
func SendAndLeave(addr, text string) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, strings.ReplaceAll(text, "\n", "\r\n"))
}

// ReadResponse reads an answer to its end.
func ReadResponse(resp *http.Response, err error) (Response, error) {
	if err != nil {
		return Response{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return Response{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}, err
}

// Get asks for a path with header lines such as "3rd_session: x".
func (g *Gateway) Get(path string, lines ...string) Response {
	g.tb.Helper()
	return g.Raw("GET " + path + " HTTP/1.1\nHost: " + g.Addr + "\n" + joinLines(lines) + "Connection: close\n\n")
}

// Post sends a JSON body.
func (g *Gateway) Post(path, body string, lines ...string) Response {
	g.tb.Helper()
	return g.Raw("POST " + path + " HTTP/1.1\nHost: " + g.Addr + "\nContent-Type: application/json\nContent-Length: " +
		strconv.Itoa(len(body)) + "\n" + joinLines(lines) + "Connection: close\n\n" + body)
}

func joinLines(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(line + "\n")
	}
	return b.String()
}

// A Login is the gateway's answer to a good login.
type Login struct {
	Token     string `json:"3rd_session"`
	ExpiresIn int64  `json:"expires_in"`
}

// Login logs a user of the first mini program in.
func (g *Gateway) Login(user string) Login {
	g.tb.Helper()
	return g.LoginTo(AppID, user)
}

// LoginTo logs a user of any mini program in.
func (g *Gateway) LoginTo(appID, user string) Login {
	g.tb.Helper()
	resp := g.Post("/login", `{"code":"`+g.WeChat.IssueCode(appID, user)+`","appid":"`+appID+`"}`)
	require.Equal(g.tb, http.StatusOK, resp.Status, resp.Body)
	var login Login
	require.NoError(g.tb, json.Unmarshal([]byte(resp.Body), &login))
	require.Len(g.tb, login.Token, 43)
	return login
}

// AdminStatus is the status of a GET at the admin endpoint.
func (g *Gateway) AdminStatus(path string) int {
	g.tb.Helper()
	resp, err := ReadResponse(g.AdminClient().Get("http://admin" + path))
	require.NoError(g.tb, err)
	return resp.Status
}

// OpenID is what the sandbox WeChat calls a user of the first mini program.
func (g *Gateway) OpenID(user string) string { return g.WeChat.OpenID(AppID, user) }

// Token is a header line.
func Token(token string) string { return "3rd_session: " + token }

// RequireIdentity asserts that the upstream received one request since it was
// last asked, with exactly one X-OpenID line, of that value, and no token.
func (g *Gateway) RequireIdentity(tb testing.TB, openID, token string) {
	tb.Helper()
	received := g.Upstream.Take()
	require.Len(tb, received, 1)
	require.Equal(tb, []string{openID}, received[0].Lines("X-OpenID"))
	require.NotContains(tb, string(received[0].Raw), token)
}

// RequireNothing asserts that the upstream saw not one byte.
func (g *Gateway) RequireNothing(tb testing.TB) {
	tb.Helper()
	require.Empty(tb, g.Upstream.Take())
	require.Empty(tb, g.Upstream.Pending(), "part of a request")
}
