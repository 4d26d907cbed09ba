"""An upstream of wxgate as a WSGI application, with the standard library alone."""
import json
import os
from wsgiref.simple_server import make_server


def app(environ, start_response):
    openid = environ.get("HTTP_X_OPENID", "")  # WSGI's spelling of X-OpenID
    status, answer = ("200 OK", {"openid": openid}) if openid else ("401 Unauthorized", {"error": "no_openid"})
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


if __name__ == "__main__":
    # Only the gateway on this machine reaches it.
    make_server("127.0.0.1", int(os.environ.get("PORT", "3000")), app).serve_forever()
