import asyncio
import sys

from websockets.asyncio.server import serve, unix_serve


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def main():
    listening = unix_serve(echo, sys.argv[1]) if sys.argv[1:] else serve(echo, "127.0.0.1", 8080)
    async with listening as server:
        await server.serve_forever()


asyncio.run(main())
