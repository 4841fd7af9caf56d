"""A stand-in for `slipstream serve`: the same pages, policies and stream format, made-up tokens.

It serves web/ as cmake/EmbedAssets.cmake stages it and plays a fixed text at a fixed rate, so that
tests of the page are deterministic and need neither a build nor a model. Run it to work on the page:
    python3 tests/browser/mock_server.py --rate 120 --port 8001
"""

import argparse
import functools
import json
import re
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOF_TOKENS_PER_S = 190.0

DEFAULT_TEXT = """A **jet engine** pulls in air, squeezes it, burns fuel in it and lets it out faster.

1. The *fan* draws air in; most of it goes around the core.
2. The compressor raises its pressure about forty times.
3. Fuel burns in the combustor at nearly constant pressure.
4. The turbine takes out just enough work to drive the fan and the compressor.

| part | pressure | temperature |
|---|---|---|
| inlet | 1 bar | 15 °C |
| compressor | 40 bar | 550 °C |
| combustor | 39 bar | 1,600 °C |

Thrust is mass flow times the gain in speed:

```python
def thrust(mass_flow_kg_s, speed_in_m_s, speed_out_m_s):
    \"\"\"Newtons, without the pressure term.\"\"\"
    return mass_flow_kg_s * (speed_out_m_s - speed_in_m_s)

print(thrust(500, 250, 430))  # 90000
```

So a large fan that speeds up *much* air *a little* wastes less energy than a small one that speeds
up little air a lot. That is why engines keep growing.
"""

ANSWERS = {
    "html": "Here is a page:\n\n```html\n<!doctype html>\n<title>t</title>\n<body>\n"
            "<p id=\"out\">waiting</p>\n<script>\ndocument.getElementById('out').textContent = "
            "'ran ' + (1 + 1);\n</script>\n</body>\n```\n\nThat is all.",
    "svg": "```svg\n<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 200 120\">\n"
           "<rect width=\"200\" height=\"120\" fill=\"#f4a259\"/>\n"
           "<circle cx=\"100\" cy=\"90\" r=\"40\" fill=\"#f9e784\"/>\n"
           "<path d=\"M0 90 Q50 50 100 90 T200 90 V120 H0Z\" fill=\"#2e5d4b\"/>\n</svg>\n```\n",
    "raw": "Not markup: <img src=x onerror=\"window.hacked=1\"> <script>window.hacked=1</script>\n\n"
           "<b>bold?</b> [bad](javascript:window.hacked=1) ![pic](https://example.com/x.png)",
}


def field(kind, default, doc, **more):
    return {"type": [kind, "null"], "default": default, "description": doc, **more}


PROPERTIES = {
    "model": {"type": "string"},
    "messages": {"type": "array", "items": {"type": "object"}},
    "stream": field("boolean", False, "Send the answer as it is made."),
    "temperature": field("number", 1.0, "0 takes the most probable token.", minimum=0, maximum=2),
    "top_p": field("number", 1.0, "Keeps the smallest set with this probability.",
                   exclusiveMinimum=0, maximum=1),
    "top_k": field("integer", 0, "Keeps the k best tokens; 0 keeps all.", minimum=-1),
    "min_p": field("number", 0.0, "Drops tokens below min_p times the best.", minimum=0, maximum=1),
    "seed": field("integer", None, "Equal seeds give equal answers."),
    "max_completion_tokens": field("integer", None, "Most tokens of the answer.", minimum=1),
    "repetition_penalty": field("number", 1.0, "Above 1 discourages repeats.", minimum=0),
    "presence_penalty": field("number", 0.0, "Once per token.", minimum=-2, maximum=2),
    "frequency_penalty": field("number", 0.0, "Per occurrence.", minimum=-2, maximum=2),
    "logit_bias": {"type": ["object", "null"], "description": "Token id to bias."},
    "stop": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}},
                       {"type": "null"}], "description": "Texts that end the answer."},
    "ignore_eos": field("boolean", False, "Goes on past the end token."),
    "min_tokens": field("integer", 0, "Fewest tokens.", minimum=0),
    "priority": field("integer", 0, "Lower runs first."),
    "tools": {"type": ["array", "null"]},
}
OPENAPI = {
    "openapi": "3.1.0",
    "paths": {"/v1/chat/completions": {"post": {"requestBody": {"content": {"application/json": {
        "schema": {"$ref": "#/components/schemas/Chat"}}}}}}},
    "components": {"schemas": {"Chat": {"type": "object", "properties": PROPERTIES}}},
}


@functools.cache
def staged_assets():
    """The files as the binary would serve them, by the path they are asked for with."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cmake", f"-DWEB={ROOT / 'web'}", f"-DSTAGE={folder}", "-P",
                        str(ROOT / "cmake/EmbedAssets.cmake")], check=True, capture_output=True)
        manifest = json.loads((Path(folder) / "manifest.json").read_text())
        return {each["path"]: dict(each, body=(Path(folder) / each["file"]).read_bytes())
                for each in manifest}


class MockServer(ThreadingHTTPServer):
    """`requests` keeps what was asked, `aborted` counts streams whose client left."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port=0, rate=200.0, key=None, ttft_s=0.05):
        super().__init__(("127.0.0.1", port), Handler)
        self.rate, self.key, self.ttft_s = rate, key, ttft_s
        self.assets = staged_assets()
        self.answer = None
        self.loading = False
        self.requests = []
        self.lock = threading.Lock()
        self.aborted = self.running = self.generated = 0
        self.fail_with = None  # (status, error object): the next chat call's answer

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def metrics(self):
        return (f'vllm:num_requests_running{{model_name="mock"}} {self.running}\n'
                'vllm:num_requests_waiting{model_name="mock"} 0\n'
                f'vllm:kv_cache_usage_perc{{model_name="mock"}} {min(1, self.running * 0.07)}\n'
                f'vllm:generation_tokens_total{{model_name="mock"}} {self.generated}\n'
                f'vllm:prompt_tokens_total{{model_name="mock"}} {30 * len(self.requests)}\n'
                'vllm:prefix_cache_queries_total{model_name="mock"} 1000\n'
                'vllm:prefix_cache_hits_total{model_name="mock"} 420\n'
                f'slipstream:roof_tokens_per_second{{model_name="mock"}} {ROOF_TOKENS_PER_S}\n'
                f'slipstream:latency_gear{{model_name="mock"}} {min(1, self.running)}\n'
                'vllm:num_preemptions_total{model_name="mock"} 0\n'
                f'vllm:request_success_total{{finished_reason="stop"}} {len(self.requests)}\n'
                f'vllm:time_to_first_token_seconds_bucket{{le="0.05"}} {len(self.requests)}\n'
                f'vllm:time_to_first_token_seconds_bucket{{le="+Inf"}} {len(self.requests)}\n')


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, body, content_type="application/json", **headers):
        data = body if isinstance(body, bytes) else (
            body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status, message, kind, **headers):
        self.reply(status, {"error": {"message": message, "type": kind, "param": None,
                                      "code": None}}, **headers)

    def has_key(self):
        key = self.server.key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self.refuse(401, "The API key is missing or wrong.", "authentication_error")
        return False

    def do_GET(self):
        asset = self.server.assets.get(self.path.split("?")[0])
        if asset:
            self.reply(200, asset["body"], asset["type"], Content_Security_Policy=asset["policy"],
                       X_Content_Type_Options="nosniff", Referrer_Policy="no-referrer",
                       Cross_Origin_Opener_Policy="same-origin")
        elif self.server.loading:
            self.refuse(503, "The model is loading.", "service_unavailable", Retry_After="1")
        elif not self.has_key():
            pass
        elif self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [{"id": "smollm2-135m", "object": "model"}]})
        elif self.path == "/openapi.json":
            self.reply(200, OPENAPI)
        elif self.path == "/metrics":
            self.reply(200, self.server.metrics(), "text/plain")
        else:
            self.refuse(404, f"There is no {self.path}.", "not_found_error")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.has_key():
            return
        server = self.server
        with server.lock:
            server.requests.append(body)
            failure, server.fail_with = server.fail_with, None
        if failure:
            self.refuse(*failure)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with server.lock:
            server.running += 1
        try:
            self.stream(body)
        except OSError:
            with server.lock:
                server.aborted += 1
            self.close_connection = True
        finally:
            with server.lock:
                server.running -= 1

    def chunk(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def event(self, choices, **more):
        self.chunk("data: " + json.dumps({
            "id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1,
            "model": "smollm2-135m", "choices": choices, **more}) + "\n\n")

    def answer_to(self, body):
        if self.server.answer:
            return self.server.answer
        prompt = body["messages"][-1]["content"].lower()
        named = next((text for name, text in ANSWERS.items() if name in prompt), DEFAULT_TEXT)
        return f"You said: {prompt}" if prompt.startswith("echo") else named

    def stream(self, body):
        server = self.server
        pieces = re.findall(r"\s?[A-Za-z]{1,5}|\s+|[^\sA-Za-z]{1,2}", self.answer_to(body))
        limit = body.get("max_completion_tokens") or len(pieces)
        pieces, finish = pieces[:limit], "length" if limit < len(pieces) else "stop"
        continuous = (body.get("stream_options") or {}).get("continuous_usage_stats")
        usage = {"prompt_tokens": 31, "completion_tokens": 0,
                 "prompt_tokens_details": {"cached_tokens": 16}}
        time.sleep(server.ttft_s)
        started = time.monotonic()
        for idx, piece in enumerate(pieces):
            wait = started + idx / server.rate - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            usage["completion_tokens"] = idx + 1
            delta = {"role": "assistant", "content": piece} if idx == 0 else {"content": piece}
            self.event([{"index": 0, "delta": delta, "finish_reason": None}],
                       **({"usage": usage} if continuous else {}))
            server.generated += 1
        rate = len(pieces) / max(1e-6, time.monotonic() - started)
        self.event([{"index": 0, "delta": {}, "finish_reason": finish}],
                   **({"timings": {"predicted_n": len(pieces), "predicted_per_second": rate,
                                   "ttft_ms": server.ttft_s * 1000, "executor": "eager",
                                   "roof_fraction": rate / ROOF_TOKENS_PER_S}}
                      if body.get("timings") else {}))
        self.event([], usage=usage)
        self.chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--rate", type=float, default=120.0, help="tokens per second")
    parser.add_argument("--key", default=None, help="ask for this API key")
    args = parser.parse_args()
    server = MockServer(args.port, args.rate, args.key)
    print(f"mock server on {server.url}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
