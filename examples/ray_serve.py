"""Replicas of `bitnetc serve` on a Ray cluster, their number chosen by the length of the queue.

    pip install 'ray[serve]'
    python examples/ray_serve.py --model 2b-4t --cpus 16 --parallel 8 --max-replicas 4
    curl http://127.0.0.1:8000/v1/completions -d '{"prompt": "ROMEO:", "max_tokens": 16}'

Each replica of the deployment is an actor that starts a server of its own on its node and passes requests on to it, so that every route
and every API is there, streams too. Ray Serve sends a request to the replica with fewer requests under way and adds replicas
while each has more than `--parallel` of them on average.
"""
import argparse
import ctypes
import signal
import subprocess

import aiohttp
import ray
from ray import serve
from starlette.responses import Response, StreamingResponse

# Headers that belong to one connection, and those that are made anew.
OF_A_CONNECTION = {"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "date"}


def passed_on(headers):
    return [(name, value) for name, value in headers.items() if name.lower() not in OF_A_CONNECTION]


@serve.deployment
class Replica:
    def __init__(self, options):
        command = ["bitnetc", "serve", "--port", "0", *options]
        libc = ctypes.CDLL(None)
        # PR_SET_PDEATHSIG: it ends with this process, also where that is killed.
        end_with_this = {"preexec_fn": lambda: libc.prctl(1, signal.SIGTERM)}
        self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, **end_with_this)
        # The address is printed when the model is loaded.
        self.url = self.server.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"`{' '.join(command)}` ended with exit code {self.server.wait()}")
        self.session = None

    async def __call__(self, request):
        if self.session is None:
            # A long answer that is not streamed is silent until it is complete.
            self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False)
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        headers, body = passed_on(request.headers), await request.body()
        answer = await self.session.request(request.method, self.url + path, headers=headers, data=body or None)
        headers = dict(passed_on(answer.headers))
        if "content-length" in answer.headers:
            async with answer:
                return Response(await answer.read(), answer.status, headers)
        return StreamingResponse(pieces_of(answer), answer.status, headers)

    def check_health(self):
        """Ray replaces a replica whose server has ended."""
        if self.server.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {self.server.returncode}")

    def __del__(self):
        # Ray has waited for the requests under way.
        self.server.terminate()
        self.server.wait()


async def pieces_of(answer):
    """A client that leaves closes this, and with it the connection to the server, which then frees the sequence."""
    try:
        async for piece in answer.content.iter_any():
            yield piece
    finally:
        answer.close()


def deployment(args):
    """The deployment for these arguments."""
    options = ["-t", str(args.cpus), "--parallel", str(args.parallel), *([args.model] if args.model else [])]
    configured = Replica.options(
        ray_actor_options={"num_cpus": args.cpus},
        # Beyond it a request waits at Ray's proxy, where any replica can take it.
        max_ongoing_requests=2 * args.parallel,
        graceful_shutdown_timeout_s=120,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": args.max_replicas,
            "target_ongoing_requests": args.parallel,
            "upscale_delay_s": args.upscale_delay,
            "downscale_delay_s": 300,
        },
    )
    return configured.bind(options)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model as `bitnetc serve` takes it (default: the built-in one)")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs and threads of a replica (default: 1)")
    parser.add_argument("--parallel", type=int, default=8, help="texts that a replica generates at a time (default: 8)")
    parser.add_argument("--max-replicas", type=int, default=4, help="replicas at most (default: 4)")
    parser.add_argument("--upscale-delay", type=float, default=10, help="seconds of load before a replica is added (default: 10)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on, on every node (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    args = parser.parse_args()
    ray.init()
    serve.start(proxy_location="EveryNode", http_options={"host": args.host, "port": args.port})
    serve.run(deployment(args), name="bitnetc", route_prefix="/", blocking=True)


if __name__ == "__main__":
    main()
