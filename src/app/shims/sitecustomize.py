"""Start-up shim of Pillion for Python 3.8 and later: put this file's folder on PYTHONPATH.

Carries the header `pillion-token` from a request that this program serves to the plain http:// calls made on its behalf,
through tasks and executors. It reads, keeps and sends nothing else. Whatever fails in here leaves the program as it would
be without it. A `sitecustomize` that is further down the path runs as ever. Older versions, which other programs may run in
with the same variables, read this file too and do nothing but that.

Serves: http.server (and what builds on it), gunicorn, uvicorn, aiohttp.web. Calls: http.client (urllib, requests,
urllib3), aiohttp, httpcore (httpx). A thread that a request starts by itself inherits nothing: it may outlive the request
and serve others.
"""

import sys

# As text, because Python 2 would find fault with it.
BEFORE_ASYNC = """
def wrapped(original, quietly, action):
    async def wrapper(*args, **kwargs):
        quietly(action, *args)
        return await original(*args, **kwargs)
    return wrapper
"""


def _install():
    import contextvars
    import functools

    header = "pillion-token"
    current = contextvars.ContextVar("pillion_token", default=None)

    def quietly(function, *args):
        """The answer of a function of ours; a failure is nobody's business."""
        try:
            return function(*args)
        except Exception:
            return None

    def before(owner, name, action):
        """Has `action` see the arguments of each call first."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapper(*args, **kwargs):
            quietly(action, *args)
            return original(*args, **kwargs)

        setattr(owner, name, wrapper)

    def before_async(owner, name, action):
        """The same for a coroutine: `action` runs inside its task."""
        original = getattr(owner, name)
        scope = {}
        exec(BEFORE_ASYNC, scope)
        wrapper = scope["wrapped"](original, quietly, action)
        setattr(owner, name, functools.wraps(original)(wrapper))

    def after(owner, name, action):
        """Has `action` see the answer of each call and its arguments."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapper(*args, **kwargs):
            result = original(*args, **kwargs)
            quietly(action, result, *args)
            return result

        setattr(owner, name, wrapper)

    # Serving: a request without a token clears the one that the thread or task had before.

    def http_server(module):
        def parsed(_, handler):
            current.set(getattr(handler, "headers", {}).get(header))

        after(module.BaseHTTPRequestHandler, "parse_request", parsed)

    def gunicorn(module):
        after(module, "create", lambda result, *_: current.set(result[1].get("HTTP_PILLION_TOKEN")))

    def uvicorn(module):
        def serve(cycle, *_):
            tokens = [value for name, value in cycle.scope["headers"] if name == header.encode()]
            current.set(tokens[0].decode("latin-1") if tokens else None)

        before_async(module.RequestResponseCycle, "run_asgi", serve)

    def aiohttp_web(module):
        before_async(module.RequestHandler, "_handle_request", lambda _, request, *__: current.set(request.headers.get(header)))

    # Calling: only what Pillion can read and take the token off again.

    def http_client(module):
        def started(_, connection, *__):
            token = current.get()
            if token and not isinstance(connection, getattr(module, "HTTPSConnection", ())):
                connection.putheader(header, token)

        after(module.HTTPConnection, "putrequest", started)

    def aiohttp_client(module):
        def send(request, *_):
            token = current.get()
            if token and request.url.scheme == "http":
                request.headers[header] = token

        name = "send" if hasattr(module.ClientRequest, "send") else "_send"
        before_async(module.ClientRequest, name, send)

    def stamp_httpcore(_, request):
        token = current.get()
        if token and request.url.scheme == b"http":
            request.headers = list(request.headers) + [(header.encode(), token.encode("latin-1"))]

    def httpcore(module):
        before(module.ConnectionPool, "handle_request", stamp_httpcore)

    def httpcore_async(module):
        before_async(module.AsyncConnectionPool, "handle_async_request", stamp_httpcore)

    # Handing over: a job runs with the token of whoever submitted it, in the context of its thread as ever.

    def carry(token, job, args, kwargs):
        before = current.set(token)
        try:
            return job(*args, **kwargs)
        finally:
            current.reset(before)

    def executor(module):
        original = module.ThreadPoolExecutor.submit

        @functools.wraps(original)
        def submit(*args, **kwargs):
            token = current.get()
            # Python 3.8 takes the job by its name too.
            if token is None or len(args) < 2:
                return original(*args, **kwargs)
            return original(args[0], carry, token, args[1], args[2:], kwargs)

        module.ThreadPoolExecutor.submit = submit

    patches = {
        "http.server": http_server,
        "gunicorn.http.wsgi": gunicorn,
        "uvicorn.protocols.http.h11_impl": uvicorn,
        "uvicorn.protocols.http.httptools_impl": uvicorn,
        "aiohttp.web_protocol": aiohttp_web,
        "http.client": http_client,
        "aiohttp.client_reqrep": aiohttp_client,
        "httpcore._sync.connection_pool": httpcore,
        "httpcore._async.connection_pool": httpcore_async,
        "concurrent.futures.thread": executor,
    }

    class Finder:
        """Patches each module when the program imports it, and imports nothing by itself."""

        @staticmethod
        def find_spec(name, path=None, target=None):
            if name not in patches:
                return None
            for finder in sys.meta_path:
                find = getattr(finder, "find_spec", None)
                spec = find(name, path, target) if find and finder is not Finder else None
                if spec is not None:
                    quietly(follow, spec.loader, name)
                    return spec
            return None

    def follow(loader, name):
        original = loader.exec_module

        def exec_module(module):
            original(module)
            if name in patches:
                quietly(patches.pop(name), module)

        loader.exec_module = exec_module

    for name in list(patches):
        if name in sys.modules:
            quietly(patches.pop(name), sys.modules[name])
    sys.meta_path.insert(0, Finder)


def _next_sitecustomize():
    """Runs the module that this one hides."""
    import os

    here = os.path.dirname(os.path.abspath(__file__))
    path = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    if sys.version_info < (3, 5):
        import imp

        # Where there is none, this says what Python expects then.
        imp.load_module("sitecustomize", *imp.find_module("sitecustomize", path))
        return
    import importlib.util
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


try:
    _install()
except Exception:
    pass
_next_sitecustomize()
