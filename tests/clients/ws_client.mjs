// `ws` for Node; coming back and the position are the caller's, as docs/protocol.md says.
import WebSocket from "ws";

const [address, token, channel, last] = process.argv.slice(2);
let at;

function connect() {
	const socket = new WebSocket(`ws://${address}/ws`, { headers: { Authorization: `Bearer ${token}` } });
	socket.on("open", () => {
		const asked = { type: "subscribe", channels: [channel] };
		if (at) Object.assign(asked, { after_seq: { [channel]: at.seq_id }, epoch: { [channel]: at.epoch } });
		socket.send(JSON.stringify(asked));
	});
	socket.on("message", (text) => {
		const frame = JSON.parse(text);
		if (frame.type === "subscribed") {
			at ??= frame.positions[channel];
			console.error("connected", socket.extensions);
		} else if (frame.type === "message") {
			at.seq_id = frame.seq_id;
			console.log(frame.seq_id, frame.payload);
			// A little later, so that one too many would be seen.
			if (frame.seq_id === Number(last)) setTimeout(() => process.exit(0), 300);
		} else if (frame.type !== "live") {
			console.log(String(text));
		}
	});
	socket.on("error", (error) => console.error(error.message));
	socket.on("close", () => setTimeout(connect, 200));
}

connect();
