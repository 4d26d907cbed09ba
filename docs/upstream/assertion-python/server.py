"""An upstream of wxgate that verifies the signed identity with PyJWT."""
import json
import os
from wsgiref.simple_server import make_server

import jwt

keys = jwt.PyJWKClient(os.environ["JWKS_URL"])


def openid_of(assertion):
    key = keys.get_signing_key_from_jwt(assertion).key
    claims = jwt.decode(assertion, key, algorithms=["ES256"], issuer="wxgate", audience=os.environ["AUDIENCE"], leeway=5)
    return claims["sub"]


def app(environ, start_response):
    try:
        status, answer = "200 OK", {"openid": openid_of(environ.get("HTTP_X_WXGATE_ASSERTION", ""))}
    except jwt.PyJWTError:
        status, answer = "401 Unauthorized", {"error": "no_assertion"}
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


if __name__ == "__main__":
    make_server("127.0.0.1", int(os.environ.get("PORT", "3000")), app).serve_forever()
