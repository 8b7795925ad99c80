"""`httpx-sse`, which reads the stream and knows the last id; coming back with it is the caller's, as its manual shows."""

import json
import sys
import threading
import os
import time

import httpx
from httpx_sse import connect_sse

address, token, channel, last = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
last_event_id, retry = "", 1.0


def end_soon():
    """A little later, so that one too many would be seen."""
    threading.Timer(0.3, os._exit, [0]).start()


with httpx.Client(timeout=30, headers={"Authorization": f"Bearer {token}"}) as client:
    while True:
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        try:
            with connect_sse(client, "GET", f"http://{address}/sse", params={"channel": channel}, headers=headers) as source:
                source.response.raise_for_status()
                for event in source.iter_sse():
                    last_event_id = event.id
                    retry = event.retry / 1000 if event.retry is not None else retry
                    frame = json.loads(event.data)
                    if event.event == "subscribed":
                        print("connected", file=sys.stderr, flush=True)
                    elif event.event == "message":
                        print(frame["seq_id"], frame["payload"], flush=True)
                        if frame["seq_id"] == last:
                            end_soon()
                    elif event.event != "live":
                        print(event.data, flush=True)
        except httpx.TransportError as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
        time.sleep(retry)
