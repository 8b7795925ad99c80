"""A chat over envelopes: joins a room, waits for both to be there, says some things, and prints what is said."""

import asyncio
import json
import sys

from websockets.asyncio.client import connect

address, token, name, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])


async def main():
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(f"ws://{address}/rt", additional_headers=headers) as socket:
        replies = {}

        async def call(route, data):
            number = str(len(replies))
            replies[number] = asyncio.get_running_loop().create_future()
            await socket.send(json.dumps({"id": number, "route": route, "data": data}))
            return await asyncio.wait_for(replies[number], 60)

        here, heard, everything = set(), [], asyncio.Event()
        both = asyncio.Event()

        async def listen():
            async for text in socket:
                envelope = json.loads(text)
                if "id" in envelope:
                    replies[envelope["id"]].set_result(envelope)
                    continue
                assert envelope["route"] == "chat.message", envelope
                message = envelope["data"]
                if message["text"] == "here":
                    here.add(message["from"])
                    if len(here) == 2:
                        both.set()
                    continue
                heard.append(f"{message['from']} {message['text']}")
                if len(heard) == 2 * count:
                    everything.set()

        listener = asyncio.create_task(listen())
        joined = await call("chat.join", {"room": "lobby"})
        assert joined["route"] == "chat.joined" and joined["data"] == {"room": "lobby"}, joined
        while not both.is_set():
            await call("chat.send", {"room": "lobby", "text": "here"})
            try:
                await asyncio.wait_for(both.wait(), 0.05)
            except TimeoutError:
                pass
        await call("chat.send", {"room": "lobby", "text": "here"})
        for n in range(count):
            sent = await call("chat.send", {"room": "lobby", "text": f"message {n} of {name} ü"})
            assert sent["route"] == "chat.sent" and int(sent["metadata"]["n"]) > 0, sent
        await asyncio.wait_for(everything.wait(), 60)
        listener.cancel()
    print("\n".join(heard))


asyncio.run(main())
