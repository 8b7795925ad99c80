local t = aether.test
local topics = require("../lib/topics")

t.config({ topics = { "news", "users/*" }, open = true })
t.clock.set(1795223034340)

local function line(query) return t.dialect("pushlet", { path = "/pushlet/ws", query = query, transport = "ws" }) end
local function stream(query) return t.dialect("pushlet", { path = "/events", query = query, transport = "sse" }) end

local function note(topic, event, data, code)
	local more = if code then `,"code":"{code}"` else ""
	return `\{"topic":"{topic}","event":"{event}","data":"{data}","timestamp":"2026-11-21T01:03:54.34Z"{more}}`
end

t.case("a socket begins with a binary frame, and its words are answered with OK", function()
	local ann = line({ topic = "news" })
	t.equal(ann:take(), { { bytes = note("news", "connected", "WebSocket connection established"), kind = "binary" } })
	for _, frame in { "PING", "SUB users/7", "UNSUB users/7", "UNSUB users/7", "PING\nSUB nothing", "SUB news again" } do
		ann:frame(frame, "binary")
		t.equal(ann:take(), { { bytes = "OK", kind = "binary" } }, frame)
	end
end)

t.case("a message is the topic and then JSON, as Go writes it", function()
	local ann = line({ topic = "news" })
	local said = ann:hears({ channel = "pushlet.topic.news", payload = 'a <b> & "c"\n', event = "price" })
	t.equal(said.kind, "binary")
	t.matches(said.bytes, [[^news {"topic":"news","event":"price","data":"a \u003cb\u003e \u0026 \"c\"\n","timestamp":"2026%-]])
end)

t.case("whoever speaks the JSON form hears JSON alone", function()
	local ann = line({})
	ann:take()
	ann:frame('{"action":"subscribe","topic":"news"}', "text")
	t.equal(ann:take()[1].bytes, note("news", "subscribed", "news"))
	t.matches(ann:hears({ channel = "pushlet.topic.news", payload = "hi" }).bytes, '^{"topic":"news","event":"message","data":"hi"')
	ann:frame('{"action":"unsubscribe","topic":"news"}', "text")
	t.equal(ann:texts()[2], note("news", "unsubscribed", "news"))
end)

t.case("what makes no sense is answered, and the connection goes on", function()
	local ann = line({})
	ann:take()
	local function code(frame, kind)
		ann:frame(frame, kind or "binary")
		return aether.json.decode(ann:texts()[1]).code
	end
	t.equal(code("SUB"), "bad_topic")
	t.equal(code("SUB "), "bad_topic")
	t.equal(code("SUB \255"), "bad_topic")
	t.equal(code("SUB " .. string.rep("x", 200)), "bad_topic")
	t.equal(code("sub news"), "unknown_command")
	t.equal(code("null", "text"), "unknown_command")
	t.equal(code("{", "text"), "bad_json")
	t.equal(code('{"action":"dance","topic":"t"}', "text"), "unknown_action")
	t.equal(code('{"action":"subscribe"}', "text"), "bad_topic")
	assert(code("SUB secret"))
	ann:frame("PING", "binary")
	t.equal(ann:texts(), { "OK" })
end)

t.case("a stream has one topic, and nothing in a message can begin a field", function()
	local bob = stream({ topic = "news" })
	t.equal(bob:take()[1].bytes, "event: connected\ndata: Connection established\n\n")
	local said = bob:hears({ channel = "pushlet.topic.news", payload = "a\nevent: evil\r\n\rdata: x" })
	t.equal(said.bytes, "event: message\ndata: a\ndata: event: evil\ndata: \ndata: data: x\n\n")
	t.matches(bob:hears({ kind = "ping" }).bytes, "^: heartbeat %d%d%d%d%-%d%d%-%d%d %d%d:%d%d:%d%d\n\n$")
	t.equal(stream({}).refused.status, 403) -- the topic default is not open
	t.equal(stream({ topic = "newsroom" }).refused.status, 403)
end)

t.case("what back ends send reaches the topic, and what is for all everybody, once", function()
	local ann, bob = line({ topic = "news" }), stream({ topic = "users/7" })
	ann:frame("SUB users/7", "binary")
	ann:take()
	bob:take()
	t.equal(t.route("GET", "/send", { query = { topic = "news", message = "hello", event = "join" } }).body, "Message sent")
	t.matches(ann:texts()[1], '^news {"topic":"news","event":"join","data":"hello"')
	t.equal(t.route("POST", "/send/all", { query = { message = "for all" } }).body, "Message sent")
	local heard = ann:texts()
	t.equal(#heard, 1)
	t.matches(heard[1], '^global {"topic":"global","event":"message","data":"for all"')
	t.equal(bob:texts(), { "event: message\ndata: for all\n\n" })
	t.equal(t.route("GET", "/send", { query = { topic = "news", event = "a\nb" } }).status, 400)
end)

t.case("who is of another protocol is kept out, whatever is granted", function()
	local all = { user = "eve", grants = { subscribe = { aether.pattern("pushlet.*") }, publish = { aether.pattern("pushlet.*") } } }
	t.denied(t.subscribe(all, "pushlet.topic.news"), "other_protocol")
	t.denied(t.publish(all, "pushlet.topic.news", "x"), "other_protocol")
end)

t.case("a topic is any text, and no two share a channel", function()
	local seen = {}
	for _, topic in { "a", "a.b", "a/b", "%", "%2F", "*", "global", "é", " ", "\t" } do
		local channel = assert(topics.channel(topic))
		t.equal({ topics.of(channel), seen[channel] }, { topic })
		seen[channel] = true
	end
	t.equal(topics.of(topics.global), "global")
	t.equal({ topics.channel("") }, { nil, "a topic is missing" })
end)
