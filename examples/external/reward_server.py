"""A reward server in Python: answers near a length, with few repeated words, score high.

python3 reward_server.py 8300     then     [reward_model.scorer.http] server = { base_url = "http://127.0.0.1:8300" }
"""
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def score(item, target=12):
    words = item["output"].lower().split()
    variety = len(set(words)) / max(1, len(words))
    return variety - abs(len(words) - target) / target


class Scorer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = json.dumps({"results": [score(item) for item in request["items"]]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Scorer)
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
