# Phorge's back end: it tries its servers in any order, each for two seconds, until one accepts.
import json
import random
import string
import sys
import time
import urllib.error
import urllib.request

servers, client, instance, subscriber, last = sys.argv[1].split(","), *sys.argv[2:6]


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


opener = urllib.request.build_opener(Stay)


def ask(url, body=None):
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"} if body else {})
    with opener.open(request, timeout=2) as answer:
        return answer.read()


def post(message):
    message["uniqueID"] = "".join(random.choices(string.ascii_lowercase + "234567", k=32))
    # As json_encode of PHP writes it.
    body = json.dumps(message, separators=(",", ":")).replace("/", "\\/").encode()
    random.shuffle(servers)
    for server in servers:
        try:
            return json.loads(ask(f"http://{server}/?instance={instance}", body))["fingerprint"]
        except OSError as error:
            print(server, error, file=sys.stderr)
    return None


for server in servers:
    status = json.loads(ask(f"http://{server}/status/?instance={instance}"))
    assert status["version"] == 7 and status["instance"] == instance, status
try:
    ask(f"http://{client}/")
    raise SystemExit("the client's port is no web server")
except urllib.error.HTTPError as error:
    assert (error.code, error.read()) == (501, b"HTTP/501 Use Websockets\n"), error

for n in range(1, int(last) + 1):
    accepted = post({"type": "notification", "key": "お/知らせ", "n": n, "subscribers": [subscriber, "PHID-USER-2"]})
    print(n, accepted, flush=True)
    time.sleep(0.02)
