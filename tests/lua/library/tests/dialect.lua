-- Clients of a dialect: let in, heard and answered in its words.
local t = aether.test

t.http.stub("GET", "https://auth.internal/keys.json", { json = { keys = aether.json.array({}) } })
t.http.stub("DELETE", "https://auth.internal/online/*", { status = 204 })

t.case("who comes is let in by the connect hooks, and greeted by the dialect", function()
	local ann = t.dialect("lines", { query = { name = "ann" } })
	t.equal(ann:take(), { { bytes = "HELLO ann", kind = "text" } })
	t.equal({ ann.who.user, ann.transport, ann.refused, ann.closed }, { "ann", "ws" })
	ann:frame("SUB news")
	ann:frame("PUB news good morning")
	t.equal(ann:texts(), { "OK subscribed news", "OK published 1 good morning", "MSG news 1 good morning" })
	t.equal(#ann.sent, 4)
end)

t.case("who is not let in is answered over HTTP, in the dialect's words if it has some", function()
	local nobody = t.dialect("lines", { bearer = "ann" })
	t.equal({ nobody.refused.status, nobody.refused.body }, { 422, "ERR say who you are: ?name=" })
	local mallory = t.dialect("lines", { query = { name = "mallory" } })
	t.equal({ mallory.refused.status, mallory.refused.number, mallory.refused.code }, { 401, 40102, "banned" })
	local late = t.dialect("lines", { query = { name = "ann", to = "room.42" } })
	t.equal({ late.refused.status, late.refused.code }, { 403, "not_member" })
	t.raises(function() mallory:frame("SUB news") end, "has ended")
end)

t.case("a no is told, and the connection goes on", function()
	local ann = t.dialect("lines", { query = { name = "ann" } })
	ann:take()
	ann:frame("SUB room.42")
	ann:frame("PUB room.42 hello there")
	ann:frame("PUB nowhere hello there")
	ann:frame("SUB ..")
	ann:frame("WHAT")
	ann:frame("\0", "binary")
	ann:frame("SUB news")
	t.equal(ann:texts(), {
		"NO subscribe not_member",
		"OK published 1 hello there",
		"NO publish not_allowed",
		"ERR bad_channel",
		"ERR unknown_verb",
		"ERR binary",
		"OK subscribed news",
	})
end)

t.case("guests hear each other, through their views, and what plugins publish", function()
	aether.kv("members"):set({ "42", "ann" }, true)
	local ann = t.dialect("lines", { query = { name = "ann", to = "room.42" } })
	local bob = t.dialect("lines", { query = { name = "bob" }, transport = "sse" })
	t.equal(bob.refused, nil)
	ann:take()
	t.route("POST", "/say/room.42", { json = { text = "hi", email = "a@b.c" } })
	t.equal(ann:texts(), { 'MSG room.42 2 {"text":"hi"}' })
	t.equal(bob:texts(), {})
end)

t.case("whoever comes back hears what it missed, or of the gap", function()
	local ann = t.dialect("lines", { query = { name = "ann" } })
	ann:frame("PUB news one")
	t.clock.advance("1m")
	ann:frame("PUB news two")
	ann:take()
	ann:frame("SUB news 1")
	ann:frame("SUB news 7")
	ann:frame("AGAIN 90s")
	t.equal(ann:texts(), {
		"OK subscribed news",
		"MSG news 2 two",
		"LIVE 2",
		"OK subscribed news",
		"GAP epoch nil-nil",
		"MSG news 1 one",
		"MSG news 2 two",
		"LIVE 2",
		"NO replay not_allowed",
	})
	ann:frame("END news")
	t.equal(ann:hears({ channel = "news", payload = "three" }), nil)
	t.equal(ann:texts(), { "OK unsubscribed news" })
end)

t.case("a credential shown later counts from then on", function()
	local ann = t.dialect("lines", { query = { name = "ann", to = "news" } })
	ann:take()
	ann:frame("AUTH stale")
	ann:frame("AUTH fresh")
	t.equal(ann:texts(), { "NO authenticate bad_token", "NO subscribe not_allowed", "OK unsubscribed news", "OK authenticated" })
end)

t.case("state stays with the connection until it ends, and on_close has it", function()
	local ann = t.dialect("lines", { query = { name = "ann" } })
	ann:frame("COUNT")
	ann:frame("COUNT")
	t.equal(ann.state, { count = 2 })
	ann:leave({ cause = "lag", code = 1012 })
	t.equal(ann.closed, { code = 1012, reason = "" })
	local closed = t.logs()[1]
	t.equal({ closed.message, closed.fields.code, closed.fields.count }, { "closed", 1012, 2 })
	t.equal(ann:texts()[4], "CLOSING 1012")
end)

t.case("the dialect closes, and a plugin sends away", function()
	local ann = t.dialect("lines", { query = { name = "ann" } })
	ann:frame("BYE")
	t.equal(ann.closed, { code = 4000, reason = "bye" })
	local bob = t.dialect("lines", { query = { name = "bob" }, bearer = "bob" })
	t.route("DELETE", "/users/bob")
	t.equal(bob.closed, { code = 4403, reason = "your account is closed" })
end)

t.case("everything that can happen has its word", function()
	local ann = t.dialect("lines", { query = { name = "ann", to = "news" } })
	local function hears(event) return ann:hears(event).bytes end
	t.equal(hears({ channel = "news", payload = { a = 1 } }), 'MSG news 1 {"a":1}')
	t.equal(hears({ kind = "join", channel = "news", who = { "bob" } }), "JOIN bob")
	t.equal(hears({ kind = "leave", channel = "news", who = { "bob", "eve" } }), "LEAVE bob eve")
	t.equal(hears({ kind = "gap", channel = "news", first = 2, last = 3, cause = "skipped" }), "GAP skipped 2-3")
	t.equal(hears({ kind = "live", channel = "news" }), "LIVE 3")
	t.equal(hears({ kind = "ping" }), "PING")
	t.equal(hears({ kind = "expiring", in_ms = 5000 }), "EXPIRING 5000")
	t.raises(function() ann:hears({ kind = "nothing" }) end, "is none of message")
	ann:frame("BYTES")
	t.equal(ann.sent[#ann.sent], { bytes = "\0\255", kind = "binary" })
end)

t.case("what breaks fails the case, and would be told to a client", function()
	local ann = t.dialect("lines", { query = { name = "ann", to = "news" } })
	ann:take()
	t.raises(function() ann:frame("BREAK") end, "broken")
	t.raises(function() ann:hears({ channel = "news", payload = "unspeakable" }) end, "no word for it")
	t.equal(ann:texts(), { "ERR rule_error", "GAP denied 1-1" })
end)

t.case("an event stream gets events, and a listener of its own its paths", function()
	local bob = t.dialect("lines", { query = { name = "bob", to = "news" }, path = "/lines/events" })
	t.equal(bob:hears({ channel = "news", payload = "a\nb" }).bytes, "data: MSG news 1 a\ndata: b\n\n")
	local ann = t.dialect("lines", { query = { name = "ann" }, path = "/any/where", listen = "127.0.0.1:22999" })
	t.equal(ann:texts(), { "HELLO ann" })
	t.equal(t.route("GET", "/status", { listen = "127.0.0.1:22999" }).body, "up")
	t.raises(function() t.dialect("lines", { path = "/nowhere" }) end, "not spoken at /nowhere")
	t.raises(function() t.dialect("linse") end, "no plugin speaks linse")
end)

t.case("names of channels are made of any text", function()
	t.equal(aether.channel.parts(assert(aether.channel.name("lines", "a.b", "", "é"))), { "lines", "a.b", "", "é" })
	t.equal({ aether.channel.name(string.rep("x", 200)) }, { nil, "too_long" })
end)
