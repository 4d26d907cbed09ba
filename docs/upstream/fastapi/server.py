"""An upstream of wxgate in FastAPI. The start command listens on 127.0.0.1, so only the gateway reaches it."""
from fastapi import Depends, FastAPI, Header, HTTPException


def user(x_openid: str = Header(default="")) -> str:  # FastAPI's spelling of X-OpenID
    if not x_openid:
        raise HTTPException(status_code=401, detail="no_openid")
    return x_openid


app = FastAPI()


@app.get("/{path:path}")
def hello(openid: str = Depends(user)):
    return {"openid": openid}
