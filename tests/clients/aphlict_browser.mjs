// Phorge's page: it pings, comes back at once and then ever later, asks for what it missed, and forgets what it has seen before.
import WebSocket from "ws";

const [url, id, last] = process.argv.slice(2);
const loaded = Date.now();
const seen = [];
let delay = 0;
let comesBack = false;
let heard = 0;

function send(socket, command, data) {
	if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ command, data }));
}

function open() {
	const socket = new WebSocket(url, { origin: "https://127.0.0.1", headers: { Cookie: "phsid=hunter2" } });
	let pulse;
	socket.on("open", () => {
		delay = 0;
		console.error("connected");
		send(socket, "subscribe", [id]);
		if (comesBack) {
			const age = Math.min(60000, Date.now() - loaded + 500);
			setTimeout(() => send(socket, "replay", { age }), 100);
		}
		comesBack = true;
		pulse = setInterval(() => send(socket, "ping"), 1000);
	});
	socket.on("message", (text) => {
		const message = JSON.parse(text);
		if (message.type === "pong") return;
		if (message.uniqueID) {
			if (seen.includes(message.uniqueID)) return;
			seen.push(message.uniqueID);
			// Phorge remembers as many.
			if (seen.length > 128) seen.shift();
		}
		console.log(message.n, message.key);
		heard += 1;
		// A little later, so that one too many would be seen.
		if (heard === Number(last)) setTimeout(() => process.exit(0), 500);
	});
	socket.on("error", (error) => console.error(error.message));
	socket.on("close", () => {
		clearInterval(pulse);
		setTimeout(open, delay);
		delay = delay ? Math.min(delay * 2, 300000) : 2000;
	});
}

open();
