"""FastAPI on uvicorn with httpx: `async def` endpoints, or with ENDPOINT=def plain ones that run in a thread pool."""

import asyncio
import contextlib
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor

import fastapi
import httpx
import uvicorn

from truth import BACKEND, POOLED, PORT, Request

limits = httpx.Limits(max_connections=None, max_keepalive_connections=64 if POOLED else 0)
client = httpx.AsyncClient(base_url=BACKEND, limits=limits, timeout=60)
few = httpx.AsyncClient(base_url=BACKEND, limits=httpx.Limits(max_connections=4), timeout=60)
blocking = httpx.Client(base_url=BACKEND, limits=limits, timeout=60)
blocking_few = httpx.Client(base_url=BACKEND, limits=httpx.Limits(max_connections=4), timeout=60)
executor = ThreadPoolExecutor(16)
jobs = asyncio.Event()


async def call(path, client=client):
    return (await client.get(path)).status_code


def call_blocking(path, client=blocking):
    return client.get(path).status_code


@contextlib.asynccontextmanager
async def life(app):
    task = asyncio.create_task(background())
    yield
    task.cancel()


app = fastapi.FastAPI(lifespan=life)


@app.get("/jobs/{switch}")
async def switch_jobs(switch):
    (jobs.set if switch == "on" else jobs.clear)()


async def serve(request: fastapi.Request, tasks: fastapi.BackgroundTasks):
    request = Request(str(request.url))
    pattern, paths = request.pattern, request.paths()
    if pattern == "late":
        tasks.add_task(call, paths[0])
    elif pattern == "retry":
        while await call(paths[0]) == 503:
            pass
    elif pattern in ("par2", "fan8"):
        await asyncio.gather(*map(call, paths))
    elif pattern == "executor":
        await asyncio.get_running_loop().run_in_executor(executor, call_blocking, paths[0])
    else:
        for path in paths:
            if pattern == "sleep":
                await asyncio.sleep(0.01)
            await call(path, few if pattern == "saturated" else client)


def serve_blocking(request: fastapi.Request, tasks: fastapi.BackgroundTasks):
    request = Request(str(request.url))
    pattern, paths = request.pattern, request.paths()
    if pattern == "late":
        tasks.add_task(call_blocking, paths[0])
    elif pattern == "retry":
        while call_blocking(paths[0]) == 503:
            pass
    elif pattern in ("par2", "fan8", "executor"):
        list(executor.map(call_blocking, paths))
    else:
        for path in paths:
            if pattern == "sleep":
                time.sleep(0.01)
            call_blocking(path, blocking_few if pattern == "saturated" else blocking)


app.get("/{pattern}/{id}")(serve_blocking if os.environ.get("ENDPOINT") == "def" else serve)


async def background():
    for number in itertools.count():
        await jobs.wait()
        await call(f"/background/{number}")
        await asyncio.sleep(0.005)


# As long as what is in front keeps connections: after uvicorn's own 5 seconds it may close one that is just used again.
uvicorn.run(
    app,
    host="127.0.0.1",
    port=PORT,
    log_level="error",
    backlog=512,
    loop=os.environ.get("LOOP", "asyncio"),
    timeout_keep_alive=75,
)
