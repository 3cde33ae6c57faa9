"""Flask for gunicorn, calls through a shared requests.Session."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import flask
import requests

from truth import BACKEND, OUT, POOLED, Request

app = flask.Flask(__name__)
session = requests.Session()
session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=16))
kept = threading.local()
few = threading.BoundedSemaphore(4)
executor = ThreadPoolExecutor(16)
jobs = threading.Event()


def call(path):
    if OUT == "kept":
        if not hasattr(kept, "session"):
            kept.session = requests.Session()
        return kept.session.get(BACKEND + path).status_code
    return (session if POOLED else requests).get(BACKEND + path).status_code


def call_limited(path):
    with few:
        return call(path)


@app.get("/jobs/<switch>")
def switch_jobs(switch):
    (jobs.set if switch == "on" else jobs.clear)()
    return "ok"


@app.get("/<pattern>/<id>")
def serve(pattern, id):
    request = Request(flask.request.full_path)
    paths = request.paths()
    if pattern == "late":
        response = flask.Response("ok")
        response.call_on_close(lambda: (time.sleep(0.002), call(paths[0])))
        return response
    if pattern == "retry":
        while call(paths[0]) == 503:
            pass
    elif pattern in ("par2", "fan8", "executor"):
        list(executor.map(call, paths))
    else:
        for path in paths:
            if pattern == "sleep":
                time.sleep(0.01)
            (call_limited if pattern == "saturated" else call)(path)
    return "ok"


def background():
    for number in itertools.count():
        jobs.wait()
        call(f"/background/{number}")
        time.sleep(0.005)


threading.Thread(target=background, daemon=True).start()
