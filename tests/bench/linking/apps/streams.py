"""asyncio's own streams: one task a connection reads requests, answers them and calls; the standard library alone."""

import asyncio
import itertools

from truth import BACKEND_PORT, HOST, PORT, Request


tasks = set()


async def call(path):
    reader, writer = await asyncio.open_connection(HOST, BACKEND_PORT)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
    status = await reader.readline()
    await reader.read()
    writer.close()
    return int(status.split()[1])


async def work(request):
    pattern, paths = request.pattern, request.paths()
    if pattern == "retry":
        while await call(paths[0]) == 503:
            pass
    elif pattern in ("par2", "fan8"):
        await asyncio.gather(*map(call, paths))
    else:
        for path in paths:
            if pattern == "sleep":
                await asyncio.sleep(0.01)
            await call(path)


async def serve(reader, writer):
    # Before 3.10 nothing else keeps the task.
    tasks.add(asyncio.current_task())
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            target = head.split()[1].decode()
            request, late = None, target.startswith("/late/")
            if target.startswith("/jobs/"):
                (jobs.set if target.endswith("on") else jobs.clear)()
            else:
                request = Request(target)
            if request and not late:
                await work(request)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            if late:
                await asyncio.sleep(0.002)
                await work(request)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
    finally:
        tasks.discard(asyncio.current_task())


async def background():
    for number in itertools.count():
        await jobs.wait()
        await call(f"/background/{number}")
        await asyncio.sleep(0.005)


async def main():
    global jobs
    jobs = asyncio.Event()
    task = asyncio.ensure_future(background())
    server = await asyncio.start_server(serve, "127.0.0.1", PORT, backlog=512)
    await server.serve_forever()
    await task


asyncio.run(main())
