// `eventsource` for Node, which comes back by itself, with the Last-Event-ID.
import { EventSource } from "eventsource";

const [address, token, channel, last] = process.argv.slice(2);
const source = new EventSource(`http://${address}/sse?channel=${channel}`, {
	fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, Authorization: `Bearer ${token}` } }),
});
source.addEventListener("subscribed", () => console.error("connected"));
source.addEventListener("gap", ({ data }) => console.log(data));
source.addEventListener("message", ({ data }) => {
	const { seq_id, payload } = JSON.parse(data);
	console.log(seq_id, payload);
	// A little later, so that one too many would be seen.
	if (seq_id === Number(last)) setTimeout(() => process.exit(0), 300);
});
source.addEventListener("error", ({ message }) => console.error(message));
