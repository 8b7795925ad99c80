// A page of the first Aether: the token in the query, the last seq_id, and a switch over the frames it knew.
const shown = [];
const gaps = [];
let subscribed = 0;
let lastSeq;

function follow(token, channel) {
	const socket = new WebSocket(`ws://${location.host}/ws?token=${token}`);
	socket.onopen = () => {
		const frame = { type: "subscribe", channels: [channel] };
		if (lastSeq !== undefined) frame.after_seq = { [channel]: lastSeq };
		socket.send(JSON.stringify(frame));
	};
	socket.onmessage = (event) => {
		const frame = JSON.parse(event.data);
		switch (frame.type) {
			case "subscribed":
				subscribed++;
				lastSeq ??= 0;
				break;
			case "message":
				lastSeq = frame.seq_id;
				shown.push(frame.payload);
				break;
			case "gap":
				gaps.push(frame.message);
				break;
		}
	};
	socket.onclose = () => setTimeout(follow, 200, token, channel);
}
