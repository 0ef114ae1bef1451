import asyncio
import os

import sanic

app = sanic.Sanic("row")
body = f"generation {os.environ['HOTSWAP_GENERATION']}\n"


@app.get("/")
async def index(_):
    return sanic.text(body)


@app.get("/slow")
async def slow(_):
    await asyncio.sleep(0.2)
    return sanic.text(body)


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=8000, workers=2, motd=False, access_log=False)
