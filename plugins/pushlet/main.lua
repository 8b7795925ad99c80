-- Pushlet's protocol. Its topics are the channels pushlet.topic.<topic>; what goes to everybody is in pushlet.global.

local cfg, allow, deny = aether.config, aether.allow, aether.deny
local topics, words = require("./lib/topics"), require("./lib/words")
require("./lib/send")

local function is_ours(s) return cfg.native or s.dialect == "pushlet" or s.dialect == "plugin" end

local function keep_apart()
	return deny("other_protocol", "pushlet.* is for clients of Pushlet, unless native = true is set for the plugin pushlet")
end

-- Pushlet knew no credentials. Who shows one is asked about as anybody else.
aether.on.connect({ async = false }, function(req)
	if req.dialect ~= "pushlet" or req:bearer() or #cfg.topics == 0 then return nil end
	return allow({})
end)

aether.on.subscribe("pushlet.*", { async = false }, function(s, ch)
	if not is_ours(s) then return keep_apart() end
	if topics.is_open(ch.name) then return allow() end
	-- Whoever is somebody hears what goes to everybody.
	return ch.name == topics.global and s.user ~= nil or nil
end)

aether.on.publish("pushlet.*", function(s)
	return if is_ours(s) then nil else keep_apart()
end)

aether.on.history("pushlet.*", { async = false }, function(s)
	return if is_ours(s) then nil else keep_apart()
end)

aether.on.retention("pushlet.*", function()
	if cfg.keep == 0 then return { history = false } end
	return { age = cfg.keep, ack = cfg.ack }
end)

-- SUB, UNSUB and PING: one line, its words by single spaces.
local function command(c, frame)
	local verb, topic = table.unpack(string.split(string.match(frame, "^[^\n]*"), " "))
	if verb == "PING" then return c:reply("OK", "binary") end
	if verb ~= "SUB" and verb ~= "UNSUB" then return c:fail("unknown_command", "expected PING, or SUB or UNSUB and a topic") end
	local channel, why = topics.channel(topic or "")
	if not channel then return c:fail("bad_topic", why) end
	local tag = { by = "command" }
	if verb == "SUB" then return c:subscribe(channel, { tag = tag }) end
	return c:unsubscribe(channel, { tag = tag })
end

-- {"action": "subscribe", "topic": "t"}, as Pushlet's README promised.
local function action(c, frame)
	local asked, why = aether.json.decode(frame)
	if type(asked) ~= "table" then return c:fail("bad_json", why or "expected an object") end
	local wanted = asked.action
	if wanted ~= "subscribe" and wanted ~= "unsubscribe" then
		return c:fail("unknown_action", "expected an action, subscribe or unsubscribe")
	end
	if type(asked.topic) ~= "string" then return c:fail("bad_topic", "a topic is a text") end
	local channel, no = topics.channel(asked.topic)
	if not channel then return c:fail("bad_topic", no) end
	local tag = { by = "action" }
	c:speak("json")
	if wanted == "subscribe" then return c:subscribe(channel, { tag = tag }) end
	return c:unsubscribe(channel, { tag = tag })
end

-- Nobody but the hub says by Access-Control who may read: `*` is what Pushlet said.
local headers = { ["access-control-allow-headers"] = "Cache-Control" }
if table.find(cfg.origins, "*") then headers["access-control-allow-origin"] = "*" end

aether.dialect("pushlet", {
	mount = { sse = cfg.events, ws = cfg.ws, listen = if cfg.listen ~= "" then cfg.listen else nil },
	frame = { max = "64KiB" },
	beat = { every = cfg.heartbeat },
	origins = cfg.origins,
	headers = headers,
	resume = true,
	styles = { "json" },
	async = false,
	on_open = function(c, req)
		local topic, last_id = topics.asked(req.query), nil
		if c.transport == "sse" then
			topic, last_id = topic or "default", req:header("last-event-id")
			c:reply(aether.sse({ event = "connected", data = "Connection established" }))
		else
			if cfg.json then c:speak("json") end
			c:reply(words.note(req.query.topic or "", "connected", "WebSocket connection established"), "binary")
		end
		if topic then
			local channel, why = topics.channel(topic)
			if not channel then return c:fail("bad_topic", why) end
			c:subscribe(channel, { last_id = last_id })
		end
		-- A token that names nobody hears what it grants; whoever has none is told so now.
		if #cfg.topics > 0 or c.user or not c:credential() then c:subscribe(topics.global, { last_id = last_id }) end
	end,
	on_frame = function(c, frame)
		if string.match(frame, "^%s*{") then return action(c, frame) end
		return command(c, frame)
	end,
	encode = function(ev)
		if ev.transport == "sse" then return words.on_sse(ev) end
		return words.on_ws(ev)
	end,
	refuse = function(no)
		if no.status ~= 405 then return nil end
		return { status = 405, body = "Method not allowed\n" }
	end,
})
