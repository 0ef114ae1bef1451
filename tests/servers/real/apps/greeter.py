"""gRPC, whose messages are plain bytes, stopped as its manual has it."""

import os
import signal
import sys
import time
from concurrent import futures

import grpc


class Site(grpc.GenericRpcHandler):
    def service(self, details):
        def answer(request, context):
            time.sleep(0.2 if details.method.endswith("Slow") else 0)
            return f"generation {os.environ['HOTSWAP_GENERATION']}".encode()

        return grpc.unary_unary_rpc_method_handler(answer)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), handlers=[Site()])
server.add_insecure_port(sys.argv[1])
server.start()
signal.signal(signal.SIGTERM, lambda *_: server.stop(10))
server.wait_for_termination()
