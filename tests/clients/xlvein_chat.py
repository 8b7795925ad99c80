"""Two users and a back end of xlvein: what its SDK does, step by step (ProduceIMToken, GetNonce, GetSign, PushMessage, Send, Run)."""

import asyncio
import base64
import hashlib
import hmac
import json
import random
import string
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import websockets

gateway, app_key, secret = sys.argv[1:4]


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def produce_im_token(account, key=secret):
    claims = {"exp": int(time.time()) + 30 * 86400, "iss": "TimeToken", "sub": account}
    parts = [encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    signed = ".".join(parts)
    return signed + "." + encoded(hmac.new(key.encode(), signed.encode(), hashlib.sha256).digest())


def get_nonce():
    return "".join(random.choices(string.digits + string.ascii_letters, k=16))


def get_sign(fields):
    signed = "&".join(f"{name}={fields[name]}" for name in sorted(fields)) + f"&key={secret}"
    return hashlib.md5(signed.encode()).hexdigest().upper()


def push_message(to, message, sign=None):
    fields = {"app_key": app_key, "send_to": to, "message": json.dumps(message), "nonce": get_nonce()}
    fields["sign"] = sign or get_sign(fields)
    body = urllib.parse.urlencode(fields).encode()
    with urllib.request.urlopen(f"{gateway}/api/v1/im/push", body) as answer:
        return json.load(answer)["error"]


def url(token):
    query = urllib.parse.urlencode({"app_id": app_key, "token": token})
    return f"{gateway}/ws/connect?{query}".replace("http", "ws", 1)


async def run(name, ws):
    frame = json.loads(await ws.recv())
    assert frame["to"] == name and len(frame["msg_id"]) == 36, frame
    now = time.time()
    # From a back end in milliseconds, from a peer in seconds.
    sent = frame["send_at"] / (1 if "from" in frame else 1000)
    assert abs(now - sent) < 60, frame
    if "from" in frame:
        assert frame["conversation_id"] == name and frame["event"] == 1, frame
    print(f"{name}: {frame.get('from', 'system')} says {frame['data']}", flush=True)


async def main():
    # Its clients look at the answer when there is no upgrade.
    request = url(produce_im_token("eve", "not the secret")).replace("ws", "http", 1)
    with urllib.request.urlopen(request) as answer:
        refused = json.load(answer)
    print("refused", refused["code"], refused["msg"], flush=True)

    async with websockets.connect(url(produce_im_token("alice"))) as alice:
        async with websockets.connect(url(produce_im_token("bob"))) as bob:
            print("pushed", await asyncio.to_thread(push_message, "alice", {"text": "welcome, 爱丽丝"}), flush=True)
            await run("alice", alice)
            await bob.send(json.dumps({"to": "alice", "event": 1, "data": {"text": "hi alice"}}))
            await run("alice", alice)
            await alice.send(json.dumps({"to": "bob", "event": 1, "data": {"text": "hi bob"}}))
            await run("bob", bob)
    print("offline", push_message("alice", {"text": "are you there?"}), flush=True)
    print("forged", push_message("alice", {"text": "pay me"}, sign="0" * 32), flush=True)
    print("done", flush=True)


asyncio.run(main())
