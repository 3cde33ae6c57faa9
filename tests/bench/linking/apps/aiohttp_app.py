"""aiohttp: one event loop; with LOOP=uvloop on uvloop; or in workers of gunicorn."""

import asyncio
import itertools
import os

import aiohttp
from aiohttp import web

from truth import BACKEND, POOLED, PORT, Request

jobs = asyncio.Event()


async def call(path, session=None):
    async with (session or app["session"]).get(BACKEND + path) as response:
        await response.read()
        return response.status


def call_blocking(path):
    import http.client
    from truth import BACKEND_PORT, HOST

    connection = http.client.HTTPConnection(HOST, BACKEND_PORT)
    connection.request("GET", path)
    connection.getresponse().read()
    connection.close()


async def serve(http_request):
    request = Request(http_request.path_qs)
    pattern, paths = request.pattern, request.paths()
    if pattern == "late":
        response = web.Response(text="ok")
        await response.prepare(http_request)
        await response.write_eof()
        await asyncio.sleep(0.002)
        await call(paths[0])
        return response
    if pattern == "retry":
        while await call(paths[0]) == 503:
            pass
    elif pattern in ("par2", "fan8"):
        await asyncio.gather(*map(call, paths))
    elif pattern == "executor":
        await asyncio.get_running_loop().run_in_executor(None, call_blocking, paths[0])
    else:
        for path in paths:
            if pattern == "sleep":
                await asyncio.sleep(0.01)
            await call(path, app["few"] if pattern == "saturated" else None)
    return web.Response(text="ok")


async def switch_jobs(request):
    (jobs.set if request.path.endswith("on") else jobs.clear)()
    return web.Response(text="ok")


async def background():
    for number in itertools.count():
        await jobs.wait()
        await call(f"/background/{number}")
        await asyncio.sleep(0.005)


async def life(app):
    connector = aiohttp.TCPConnector(limit=0, force_close=not POOLED)
    async with aiohttp.ClientSession(connector=connector) as app["session"]:
        few = aiohttp.TCPConnector(limit=4)
        async with aiohttp.ClientSession(connector=few) as app["few"]:
            task = asyncio.create_task(background())
            yield
            task.cancel()


if os.environ.get("LOOP") == "uvloop":
    import uvloop

    uvloop.install()
app = web.Application()
app.cleanup_ctx.append(life)
app.router.add_get("/jobs/{switch}", switch_jobs)
app.router.add_get("/{pattern}/{id}", serve)
if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=PORT, print=None, access_log=None, backlog=512)
