package caddymodule

import (
	"errors"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// answerError does with the error of a handler behind the gate, such as 502,
// what Caddy does where no error route takes it: it logs the error and answers
// with its status. Caddy would log the request's header as it came in, with a
// live token, and a site without a `log` has no format that could prevent it.
func (h *Handler) answerError(w http.ResponseWriter, r *http.Request, err error) error {
	if err == nil || h.errorsHandled() {
		return err
	}
	status, message := http.StatusInternalServerError, err.Error()
	var fields []zap.Field
	var handlerErr caddyhttp.HandlerError
	if errors.As(err, &handlerErr) {
		status = handlerErr.StatusCode
		if handlerErr.Err != nil {
			message = handlerErr.Err.Error()
		}
		fields = append(fields, zap.Int("status", status), zap.String("err_id", handlerErr.ID), zap.String("err_trace", handlerErr.Trace))
	}
	level := zapcore.DebugLevel
	if status >= 500 {
		level = zapcore.ErrorLevel
	}
	if c := h.errorLog.Check(level, message); c != nil {
		c.Write(append(fields, zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: h.asReceived(r)}))...)
	}
	w.WriteHeader(status)
	return nil
}

// asReceived returns the request as the client sent it, but for the token, to
// be logged: without the identity headers of the gate.
func (h *Handler) asReceived(r *http.Request) *http.Request {
	clean := *r
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		clean.Method, clean.RequestURI = original.Method, original.RequestURI
	}
	clean.Header = r.Header.Clone()
	for _, name := range slices.Concat(h.identity.Names(), h.tokens.Headers) {
		clean.Header.Del(name)
	}
	return &clean
}

// handlesErrors reports whether a server has error routes of its own, or within
// its routes.
func handlesErrors(server *caddyhttp.Server) bool {
	if server == nil {
		return true // the one who calls the gate does
	}
	return server.Errors != nil && len(server.Errors.Routes) > 0 || anyHandlesErrors(server.Routes)
}

func anyHandlesErrors(routes caddyhttp.RouteList) bool {
	return slices.ContainsFunc(routes, func(route caddyhttp.Route) bool {
		return slices.ContainsFunc(route.Handlers, func(handler caddyhttp.MiddlewareHandler) bool {
			if sub, ok := handler.(*caddyhttp.Subroute); ok && sub.Errors != nil && len(sub.Errors.Routes) > 0 {
				return true
			}
			return slices.ContainsFunc(routesIn(handler), anyHandlesErrors)
		})
	})
}
