"""A subscriber of the first Aether: the token in the query, the last seq_id of each channel, and a switch over the frames it knew."""

import asyncio
import json
import sys

import websockets

address, token, channel, last = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
last_seq = {}


async def listen():
    async with websockets.connect(f"ws://{address}/ws?token={token}") as ws:
        subscribe = {"type": "subscribe", "channels": [channel]}
        if last_seq:
            subscribe["after_seq"] = last_seq
        await ws.send(json.dumps(subscribe))
        async for text in ws:
            frame = json.loads(text)
            if frame["type"] == "message":
                last_seq[frame["channel"]] = frame["seq_id"]
                print(frame["seq_id"], frame["payload"], flush=True)
                if frame["seq_id"] == last:
                    # A little later, so that one too many would be seen.
                    asyncio.get_running_loop().call_later(0.3, sys.exit)
            elif frame["type"] == "subscribed":
                last_seq.setdefault(channel, 0)
                print("subscribed", frame["channels"], file=sys.stderr, flush=True)
            elif frame["type"] == "gap":
                print("gap", frame["requested_from_seq"], frame["available_from_seq"], flush=True)
            elif frame["type"] == "error":
                print("error", frame["code"], frame["message"], flush=True)


async def main():
    while True:
        try:
            await listen()
        except (OSError, websockets.WebSocketException) as error:
            print(type(error).__name__, file=sys.stderr, flush=True)
        await asyncio.sleep(0.2)


asyncio.run(main())
