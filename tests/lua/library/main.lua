-- Every kind of hook once, for the cases beside it.
local members = aether.kv("members")
local muted, rung = aether.shared("muted"), aether.shared("rung")
local pace = aether.limiter({ rate = 1, per = "1s", burst = aether.config.most })

local tokens = aether.jwt.verifier({
	alg = { "RS256" },
	jwks = "https://auth.internal/keys.json",
	require_exp = false,
})

local role = aether.memo(function(user)
	local res, why = aether.http.get("https://auth.internal/roles/" .. user)
	assert(res, why)
	return if res.status == 200 then res:json().role else nil
end, { name = "role", ttl = "30s" })

aether.export({ pace = function(user) return pace:take(user) end })

aether.on.connect(function(req)
	local token = req:bearer()
	if not token then return nil end
	if #token:split(".") == 3 then
		local claims, why = tokens:verify(token)
		return if claims then aether.allow({ user = claims.sub }) else aether.deny("bad_token", why)
	end
	return aether.allow({
		user = token,
		attrs = { role = if token == "mod" then "mod" else "reader" },
		grants = { subscribe = { "news" }, publish = aether.patterns({ "notes.*" }), admin = token == "admin" },
	})
end)

aether.on.refresh(function(s, token)
	return if token == "stale" then aether.deny("bad_token", "it is old") else aether.allow({ user = s.user, expires = 2e9 })
end)

aether.on.subscribe("room.{room}", function(s, ch)
	if not members:get(ch.room, s.user or "") then return aether.deny("not_member", "join the room first") end
	return aether.allow({ view = if s.attrs.role == "mod" then "full" else "public" })
end)

aether.on.subscribe("remembered.{room}", function(s, ch)
	rung:incr("asked")
	return aether.allow({ ttl = "5m", tags = { "room:" .. ch.room } })
end)

aether.on.subscribe("team.{team}", function(s, ch)
	local res, why = aether.http.get("https://auth.internal/teams/" .. ch.team, { timeout = "1s" })
	if not res then return aether.deny("unavailable", why) end
	return if res.status == 200 then aether.allow() else aether.deny("not_member")
end)

aether.on.subscribe("role.{role}", function(s, ch)
	return role(s.user or "") == ch.role
end)

aether.on.publish("room.{room}", function(s, ch, msg)
	if not s.user then return aether.deny("sign_in", "sign in before you write") end
	if muted:get(s.user) then return aether.deny("muted") end
	local ok, retry_ms = pace:take(s.user)
	if not ok then return aether.deny("too_fast", "wait a moment", { retry_ms = retry_ms }) end
	if msg.event == "alarm" then aether.publish("alarms", { room = ch.room, from = s.user }, { event = "alarm" }) end
	return true
end)

aether.on.publish("order.*", { async = true }, function(s, ch, msg)
	local res = aether.http.post("https://auth.internal/orders", {
		json = { user = s.user, order = msg:json() },
		headers = { ["x-key"] = "k" },
	})
	return res ~= nil and res.status == 200
end)

aether.on.publish("chat.*", function() return true end)
aether.on.publish("forget.{room}", function(s, ch)
	aether.forget({ tag = "room:" .. ch.room })
	return true
end)
aether.on.publish("plan.{team}", function(s, ch)
	aether.retention.refresh(aether.pattern("iot.{}.*", ch.team))
	return true
end)

aether.on.history("room.{room}", function(s, ch, req)
	return if members:get(ch.room, s.user or "") then aether.allow() else aether.deny("not_member")
end)

aether.on.transform("chat.{room}", function(ch, msg)
	local said = msg:json()
	if type(said) ~= "table" or not said.text then return nil, "a chat message has a text" end
	return msg:with_json({ text = said.text, by = msg.sender }):with_meta({ room = ch.room })
end)

aether.on.retain("chat.{room}", function(ch, msg)
	return if msg.event == "typing" then false else { ttl = "30d" }
end)

aether.on.retention("iot.*", function(ch)
	return { age = "1h", count = 1000, ack = "written" }
end)

aether.on.view("room.{room}", "public", { drop = { "email" }, mask = { phone = "last4" } })
aether.on.view("room.{room}", "teaser", function(ch, msg)
	if msg:get("embargo") then return nil end
	return msg:with_json({ title = msg:get("title") })
end)

aether.on.disconnect(function(s, why)
	if not why.expected then aether.log.info("lost", { user = s.user, cause = why.cause }) end
	if s.transport == "sse" then aether.http.request("https://auth.internal/online/" .. s.id, { method = "DELETE" }) end
end)

aether.on.join("room.{room}", function(ch, sessions)
	for _, s in sessions do aether.log.info("came", { room = ch.room, user = s.user }) end
	aether.announce(ch.name, { joined = sessions })
end)
aether.on.leave("room.{room}", { debounce = "5s" }, function(ch, sessions)
	for _, s in sessions do aether.log.info("went", { room = ch.room, user = s.user }) end
end)

aether.on.load(function(prev)
	if prev then aether.kv("before"):set("count", prev.count) end
end)
aether.on.unload(function()
	return { count = rung:get("every") or 0 }
end)

aether.every("30s", function() rung:incr("every") end)
aether.after("10s", function() rung:set("after", aether.now_ms()) end)
aether.cron("0 4 * * *", function() rung:set("cron", os.date("!%H:%M")) end)

aether.http.route("GET", "/rooms/{room}", { auth = "none" }, function(req)
	local by = `{aether.plugin.name} {aether.plugin.version}`
	return { json = { room = req.params.room, by = by, here = aether.presence("room." .. req.params.room) } }
end)
aether.http.route("DELETE", "/users/{user}", { auth = "none" }, function(req)
	return { json = { closed = aether.kick({ user = req.params.user, why = "your account is closed" }) } }
end)
aether.http.route("DELETE", "/rooms/{room}/{user}", { auth = "none" }, function(req)
	return { json = { ended = aether.unsubscribe({ channel = "room." .. req.params.room, user = req.params.user }) } }
end)
aether.http.route("GET", "/users/{user}", function(req)
	return { json = { online = #aether.sessions({ user = req.params.user }) } }
end)
aether.http.route("POST", "/say/{channel}", { auth = "none" }, function(req)
	local receipt, code, why = aether.publish_now(req.params.channel, req:json())
	if not receipt then return aether.deny(code, why) end
	return { json = receipt }
end)

-- A dialect of lines: SUB, PUB, and so on, each answered by a line.
local function by_name(req)
	local name = req.dialect == "lines" and req.query.name
	if not name then return nil end
	return if name == "mallory" then aether.deny("banned") else aether.allow({ user = name, grants = { subscribe = { "news" }, publish = { "news" } } })
end
aether.on.connect(by_name)

local verbs = {
	SUB = function(c, ch, after) c:subscribe(ch, { after = tonumber(after), tag = "asked" }) end,
	END = function(c, ch) c:unsubscribe(ch) end,
	PUB = function(c, ch, text) c:publish(ch, text, { tag = text }) end,
	AGAIN = function(c, age) c:replay(age) end,
	AUTH = function(c, token) c:authenticate(token) end,
	COUNT = function(c)
		local state = c:state()
		state.count = (state.count or 0) + 1
		c:reply("COUNT " .. state.count)
	end,
	BYTES = function(c) c:reply(buffer.fromstring("\0\255")) end,
	BYE = function(c) c:close(4000, "bye") end,
	BREAK = function() error("broken") end,
}

local words = {
	message = function(ev) return if ev.payload == "unspeakable" then error("no word for it") else `MSG {ev.channel} {ev.offset} {ev.payload}` end,
	join = function(ev) return "JOIN " .. table.concat(ev.who.users, " ") end,
	leave = function(ev) return "LEAVE " .. table.concat(ev.who.users, " ") end,
	gap = function(ev) return `GAP {ev.cause} {ev.first}-{ev.last}` end,
	live = function(ev) return "LIVE " .. ev.offset end,
	subscribed = function(ev) return "OK subscribed " .. ev.channel end,
	unsubscribed = function(ev) return "OK unsubscribed " .. ev.channel end,
	published = function(ev) return `OK published {ev.offset} {ev.tag}` end,
	authenticated = function() return "OK authenticated" end,
	denied = function(ev) return `NO {ev.what} {ev.code}` end,
	error = function(ev) return "ERR " .. ev.code end,
	ping = function() return "PING" end,
	expiring = function(ev) return "EXPIRING " .. ev.in_ms end,
	closing = function(ev) return "CLOSING " .. ev.code end,
}

aether.dialect("lines", {
	mount = {
		{ ws = "/lines", sse = "/lines/events" },
		{ ws = "/*", listen = "127.0.0.1:22999" },
	},
	on_open = function(c, req)
		if not req.query.name then return c:fail("no_name", "say who you are: ?name=") end
		if c.transport == "ws" then c:reply("HELLO " .. c.user) end
		if req.query.to then c:subscribe(req.query.to) end
	end,
	on_frame = function(c, frame, kind)
		if kind == "binary" then return c:fail("binary") end
		local verb, first, rest = string.match(frame, "^(%u+) ?(%S*) ?(.*)$")
		local act = verbs[verb]
		if not act then return c:fail("unknown_verb") end
		act(c, first, rest)
	end,
	encode = function(ev)
		local line = words[ev.kind](ev)
		return if ev.transport == "sse" then aether.sse({ data = line }) else line
	end,
	on_close = function(c, why)
		aether.log.info("closed", { user = c.user, code = why.code, count = c:state().count })
	end,
	refuse = function(no, req)
		return if no.code == "no_name" then { status = 422, body = "ERR " .. no.why } else nil
	end,
})
aether.http.route("GET", "/status", { auth = "none", listen = "127.0.0.1:22999" }, function() return { body = "up" } end)
local function tell(room)
	aether.http.post("https://auth.internal/rooms", { json = { room = room } })
end
aether.http.route("PUT", "/rooms/{room}", { auth = "none" }, function(req)
	return { json = { sent = aether.errand(tell, req.params.room) } }
end)
