"""`websockets`, which connects again by itself; the position is kept here, as docs/protocol.md says."""

import asyncio
import json
import sys

from websockets.asyncio.client import connect

address, token, channel, last = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])


def soon(error):
    """Whatever broke the connection, the hub comes back."""
    return None


async def main():
    at = None
    uri = f"ws://{address}/ws"
    headers = {"Authorization": f"Bearer {token}"}
    async for socket in connect(uri, additional_headers=headers, process_exception=soon):
        asked = {"type": "subscribe", "channels": [channel]}
        if at:
            asked |= {"after_seq": {channel: at["seq_id"]}, "epoch": {channel: at["epoch"]}}
        try:
            await socket.send(json.dumps(asked))
            async for text in socket:
                frame = json.loads(text)
                if frame["type"] == "subscribed":
                    at = at or frame["positions"][channel]
                    agreed = socket.response.headers.get("Sec-WebSocket-Extensions")
                    print("connected", agreed, file=sys.stderr, flush=True)
                elif frame["type"] == "message":
                    at["seq_id"] = frame["seq_id"]
                    print(frame["seq_id"], frame["payload"], flush=True)
                    if frame["seq_id"] == last:
                        asyncio.get_running_loop().call_later(0.3, sys.exit)
                elif frame["type"] != "live":
                    print(text, flush=True)
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
        except Exception as error:  # ConnectionClosed, for the most part
            print(type(error).__name__, error, file=sys.stderr, flush=True)


asyncio.run(main())
