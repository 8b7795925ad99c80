// What a page does, with nothing but what the browser has. `seen` is what came, `connected` how often it began.
const seen = [];
let connected = 0;
let extensions;

// Comes back by itself, with the Last-Event-ID.
function listenByEventSource(token, channel) {
	const source = new EventSource(`/sse?channel=${channel}&token=${token}`);
	source.addEventListener("subscribed", () => connected++);
	source.addEventListener("gap", ({ data }) => seen.push(data));
	source.addEventListener("message", ({ data }) => {
		const { seq_id, payload } = JSON.parse(data);
		seen.push(`${seq_id} ${payload}`);
	});
}

// A WebSocket does not: the position is the page's.
function listenByWebSocket(token, channel, at) {
	const socket = new WebSocket(`ws://${location.host}/ws`, ["aether.v1", `bearer.${token}`]);
	socket.onopen = () => {
		extensions = socket.extensions;
		const asked = { type: "subscribe", channels: [channel] };
		if (at) Object.assign(asked, { after_seq: { [channel]: at.seq_id }, epoch: { [channel]: at.epoch } });
		socket.send(JSON.stringify(asked));
	};
	socket.onmessage = ({ data }) => {
		const frame = JSON.parse(data);
		if (frame.type === "subscribed") {
			at ??= frame.positions[channel];
			connected++;
		} else if (frame.type === "message") {
			at.seq_id = frame.seq_id;
			seen.push(`${frame.seq_id} ${frame.payload}`);
		} else if (frame.type !== "live") {
			seen.push(data);
		}
	};
	socket.onclose = () => setTimeout(listenByWebSocket, 200, token, channel, at);
}
