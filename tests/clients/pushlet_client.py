"""A client of Pushlet: a WebSocket that speaks the JSON form of its README, and an event stream that comes back where it was."""

import asyncio
import json
import sys
import urllib.request

import websockets

address, last = sys.argv[1], int(sys.argv[2])
done = 0


def say(line):
    # In one piece: two threads speak.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def finished():
    global done
    done += 1
    if done == 2:
        # A little later, so that one too many would be seen.
        asyncio.get_running_loop().call_later(0.3, sys.exit)


async def socket():
    seen = 0
    async with websockets.connect(f"ws://{address}/pushlet/ws?topic=") as ws:
        assert json.loads(await ws.recv())["event"] == "connected"
        await ws.send(json.dumps({"action": "subscribe", "topic": "ticks"}))
        async for frame in ws:
            message = json.loads(frame)
            if message["event"] == "tick":
                assert isinstance(message["timestamp"], str)
                say(f"ws {message['data']}")
                seen += 1
                if seen == last:
                    await ws.send(json.dumps({"action": "unsubscribe", "topic": "ticks"}))
                    finished()
            else:
                print(message["event"], message["data"], file=sys.stderr, flush=True)


async def commands():
    """The form that its code had: words in binary frames, OK for each, a topic before each message."""
    async with websockets.connect(f"ws://{address}/pushlet/ws?topic=none") as ws:
        await ws.recv()
        for command in (b"SUB ticks", b"PING", b"UNSUB none"):
            await ws.send(command)
            assert await ws.recv() == b"OK"
        print("commands OK", file=sys.stderr, flush=True)
        topic, _, message = (await ws.recv()).decode().partition(" ")
        assert topic == "ticks" and json.loads(message)["topic"] == "ticks"
        print("commands", json.loads(message)["data"], file=sys.stderr, flush=True)


def events():
    seen, last_id, headers = 0, None, {}
    while seen < last:
        if last_id:
            headers["Last-Event-ID"] = last_id
        request = urllib.request.Request(f"http://{address}/events?topic=ticks", headers=headers)
        with urllib.request.urlopen(request) as stream:
            event, data = "message", []
            for line in stream:
                field, _, value = line.decode().rstrip("\n").partition(": ")
                if field == "event":
                    event = value
                elif field == "data":
                    data.append(value)
                elif field == "id":
                    last_id = value
                elif not field and data:
                    if event == "connected":
                        print("events", data[0], file=sys.stderr, flush=True)
                    else:
                        assert event == "tick", event
                        say("sse " + "\n".join(data))
                        seen += 1
                        # A network that breaks now and then. What comes behind the event is its id.
                        if seen == last or seen % 7 == 0:
                            break
                    event, data = "message", []


async def main():
    asyncio.get_running_loop().run_in_executor(None, events).add_done_callback(lambda ended: (ended.result(), finished()))
    await asyncio.gather(socket(), commands())
    await asyncio.Event().wait()


asyncio.run(main())
