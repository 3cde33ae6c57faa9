"""ThreadingHTTPServer: a thread for each inbound connection, blocking calls through http.client."""

import http.client
import itertools
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from truth import BACKEND_PORT, HOST, OUT, POOLED, PORT, Request

idle = queue.LifoQueue()
kept = threading.local()
few = threading.BoundedSemaphore(4)
executor = ThreadPoolExecutor(16)
jobs = threading.Event()


def call(path):
    if not POOLED:
        connection = http.client.HTTPConnection(HOST, BACKEND_PORT)
        status = send(connection, path)
        connection.close()
        return status
    if OUT == "kept":
        if not hasattr(kept, "connection"):
            kept.connection = http.client.HTTPConnection(HOST, BACKEND_PORT)
        return send(kept.connection, path)
    try:
        connection = idle.get_nowait()
    except queue.Empty:
        connection = http.client.HTTPConnection(HOST, BACKEND_PORT)
    status = send(connection, path)
    idle.put(connection)
    return status


def send(connection, path):
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    return response.status


def call_limited(path):
    with few:
        return call(path)


def serve(request):
    pattern, paths = request.pattern, request.paths()
    if pattern == "retry":
        while call(paths[0]) == 503:
            pass
    elif pattern in ("par2", "fan8"):
        threads = [threading.Thread(target=call, args=(path,)) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    elif pattern == "executor":
        executor.submit(call, paths[0]).result()
    else:
        for path in paths:
            if pattern == "sleep":
                time.sleep(0.01)
            (call_limited if pattern == "saturated" else call)(path)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one segment.
    wbufsize = -1

    def do_GET(self):
        if self.path.startswith("/jobs/"):
            (jobs.set if self.path.endswith("on") else jobs.clear)()
            return self.answer()
        request = Request(self.path)
        if request.pattern == "late":
            self.answer()
            self.wfile.flush()
            time.sleep(0.002)
            call(request.path(0))
        else:
            serve(request)
            self.answer()

    def answer(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        pass


def background():
    for number in itertools.count():
        jobs.wait()
        call(f"/background/{number}")
        time.sleep(0.005)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


threading.Thread(target=background, daemon=True).start()
Server(("127.0.0.1", PORT), Handler).serve_forever()
