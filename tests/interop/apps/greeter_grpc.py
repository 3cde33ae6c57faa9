"""A gRPC service and its client, without generated code. `server` serves on PORT, `client` calls TARGET."""

import os
import sys
from concurrent import futures

import grpc

SERVICE = "demo.Greeter"


def unary(request, context):
    if request == b"nobody":
        context.abort(grpc.StatusCode.NOT_FOUND, "nobody is here")
    return b"Hello, " + request


def stream(request, context):
    for number in range(3):
        yield request + b" %d" % number


def serve():
    handlers = {
        "Greet": grpc.unary_unary_rpc_method_handler(unary),
        "Count": grpc.unary_stream_rpc_method_handler(stream),
    }
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    assert server.add_insecure_port("127.0.0.1:%s" % os.environ["PORT"])
    server.start()
    server.wait_for_termination()


def call():
    with grpc.insecure_channel(os.environ["TARGET"]) as channel:
        greet = channel.unary_unary("/%s/Greet" % SERVICE)
        assert greet(b"Ada", timeout=20) == b"Hello, Ada"
        count = channel.unary_stream("/%s/Count" % SERVICE)
        assert list(count(b"n", timeout=20)) == [b"n 0", b"n 1", b"n 2"]
        try:
            greet(b"nobody", timeout=20)
            raise AssertionError("an error was expected")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
            assert error.details() == "nobody is here", error
    print("all calls answered")


if __name__ == "__main__":
    serve() if sys.argv[1] == "server" else call()
