"""Threads that serve: PROCESSES of them, forked after the port is open, a thread for each connection, and one call through
HTTP_PROXY to UPSTREAM with the path of each request. Says 502 where the call fails.

Nothing but Python's own library; the program knows nothing of tracing.
"""

import http.client
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PROXY = urlsplit(os.environ["HTTP_PROXY"])
UPSTREAM = os.environ["UPSTREAM"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one segment.
    wbufsize = -1

    def do_GET(self):
        connection = http.client.HTTPConnection(PROXY.hostname, PROXY.port)
        try:
            connection.request("GET", UPSTREAM + self.path)
            status = connection.getresponse().status
        except OSError:
            status = 502
        connection.close()
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def end_with(parent):
    """The parent alone holds the other end."""
    os.read(parent, 1)
    os._exit(0)


server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)
parent, held = os.pipe()
for _ in range(int(os.environ.get("PROCESSES", "1")) - 1):
    if os.fork() == 0:
        os.close(held)
        threading.Thread(target=end_with, args=(parent,), daemon=True).start()
        break
server.serve_forever()
