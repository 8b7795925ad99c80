-- The dialect that tests/dialects.rs speaks, whose comment line in the table is where tests add to it.
local verbs = {
	SUB = function(c, ch, after) c:subscribe(ch, { after = tonumber(after), tag = "asked" }) end,
	END = function(c, ch) c:unsubscribe(ch) end,
	PUB = function(c, ch, text) c:publish(ch, text) end,
	AGAIN = function(c, age) c:replay(age) end,
	AUTH = function(c, token) c:authenticate(token) end,
	PING = function(c) c:reply("PONG") end,
	COUNT = function(c)
		local state = c:state()
		state.count = (state.count or 0) + 1
		c:reply("COUNT " .. state.count)
	end,
	CLOSE = function(c, code) c:close(tonumber(code), "as you wish") end,
	BREAK = function(c)
		c:reply("this is not said")
		error("broken on purpose")
	end,
	SPIN = function() while true do end end,
	BOMB = function()
		local all = {}
		while true do table.insert(all, string.rep("x", 1000000 + #all)) end
	end,
}

local function encode(ev)
	if ev.kind == "message" then
		if ev.payload == "unspeakable" then error("no word for it") end
		return `MSG {ev.channel} {ev.offset} {ev.payload}`
	elseif ev.kind == "gap" then
		return `GAP {ev.channel} {ev.cause} {ev.first}`
	elseif ev.kind == "denied" or ev.kind == "error" then
		return `NO {ev.what} {ev.code}`
	elseif ev.kind == "closing" then
		return `BYE {ev.code}` .. if ev.retry_ms then ` {ev.retry_ms}` else ""
	elseif ev.kind == "live" or ev.kind == "ping" then
		return nil
	end
	return `OK {ev.kind} {ev.channel}`
end

local said = aether.patterns({ "news", "news.*" })

aether.on.connect(function(req)
	local name = req.dialect == "lines" and req.query.name
	if not name then return nil end
	if name == "mallory" then return aether.deny("banned", "not you") end
	return aether.allow({
		user = name,
		view = if name == "guest" then "public" else nil,
		grants = { subscribe = aether.patterns({ "news", "news.*", "room.*" }), publish = said, history = said },
	})
end)

aether.dialect("lines", {
	mount = { ws = "/lines", sse = "/lines/events" },
	on_open = function(c, req)
		if req.query.to then c:subscribe(req.query.to, { after = tonumber(req:header("last-event-id")) }) end
		if req.query.fail then c:fail(req.query.fail, "not so") end
		c:reply(if c.transport == "sse" then aether.sse({ data = "HELLO " .. c.user }) else "HELLO " .. c.user)
	end,
	on_frame = function(c, frame, kind)
		local verb, first, rest = string.match(frame, "^(%u+) ?(%S*) ?(.*)$")
		if kind == "binary" or not verbs[verb] then return c:fail("unknown_verb") end
		verbs[verb](c, first, rest)
	end,
	encode = function(ev)
		local line = encode(ev)
		if not line or ev.transport == "ws" then return line end
		return aether.sse({ data = line, id = if ev.kind == "message" then tostring(ev.offset) else nil })
	end,
	on_close = function(c, why)
		aether.publish("gone", { user = c.user, count = c:state().count, cause = why.cause, code = why.code })
	end,
	refuse = function(no, req)
		if no.retry_ms then return { status = no.status, body = `not before {no.retry_ms}` } end
		return if no.code == "teapot" then { status = 418, headers = { ["x-why"] = no.code }, body = "short and stout" } else nil
	end,
	-- MORE
})
