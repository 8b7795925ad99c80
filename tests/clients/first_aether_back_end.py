"""A back end of the first Aether, with nothing but the standard library."""

import hashlib
import hmac
import json
import sys
import urllib.request

base, key = sys.argv[1], sys.argv[2]


def call(method, path, body=None, bearer=key, headers=None):
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data=data, method=method, headers=headers or {})
    if bearer:
        request.add_header("Authorization", f"Bearer {bearer}")
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)
    assert answer["ok"] is True, answer
    return answer


order = {"channel": "order.1", "payload": {"status": "paid"}, "idempotency_key": "order-1-paid"}
print("published", call("POST", "/api/v1/publish", order)["seq_id"])
print("again", call("POST", "/api/v1/publish", order)["seq_id"])

messages = [{"channel": "order.1", "payload": 2}, {"channel": "order.2", "payload": 1}, {"payload": 3}]
results = call("POST", "/api/v2/publish/batch", {"messages": messages})["results"]
said = [r["seq_id"] if r["status"] == "success" else r["error"]["code"] for r in results]
print("batch", *said)

page = call("GET", "/api/v1/history?channel=order.1&after_seq=0&limit=10")
print("history", [message["seq_id"] for message in page["messages"]], page["has_more"])
assert page["messages"][0]["payload"] == {"status": "paid"}, page

made = call("POST", "/api/v2/keys", {"name": "till", "publish": ["order.*"], "expires_in": "1h30m"})
assert made["key"].startswith(made["meta"]["key_prefix"]), made
assert call("GET", "/api/v2/keys/" + made["meta"]["id"])["meta"]["permissions"]["publish"] == ["order.*"]
call("DELETE", "/api/v2/keys/" + made["meta"]["id"])
print("key works")

hook = call("POST", "/api/v2/webhooks", {"name": "ci", "channel_template": "order.{id}"})
body = b'{"id":1,"from":"ci"}'
signature = hmac.new(hook["secret"].encode(), body, hashlib.sha256).hexdigest()
answer = call("POST", hook["webhook"]["url"], body, bearer=None, headers={"X-Signature-256": "sha256=" + signature})
print("webhook", answer["seq_id"])
print("done")
