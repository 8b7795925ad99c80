-- Aphlict: browsers listen on one listener, publishers post to another, and nodes tell each other.

local cfg, json = aether.config, aether.json
local instance, message = require("./lib/instance"), require("./lib/message")
local node, seen, peers = require("./lib/node"), require("./lib/seen"), require("./lib/peers")

local VERSION = if cfg.gorge then 8 else 7
local WINDOW = node.WINDOW * 1000
-- A browser asks for a replay when it comes back, and not otherwise.
local replays = aether.limiter({ rate = 1, per = "1s", burst = 10 })
local MOST_IDS = 1000
-- What the hub lets a plugin publish at once, with room for what is written on it.
local LONGEST, MOST_SUBSCRIBERS = 1024 * 1024 - 4096, 4096
local MOST_LOOKED_AT = 1000

aether.on.connect(function(req)
	if req.dialect ~= "aphlict" then return nil end
	-- Whoever knows an id may listen to it, as ever; an operator's subscribe hook may say no.
	return aether.allow({ tenant = instance.of_path(req.path).tenant })
end)

local function own_instance_only(s, ch)
	if s.dialect == "aphlict" then
		local mine = s.tenant .. "."
		return string.sub(ch.name, 1, #mine) == mine
	end
	if cfg.open then return nil end
	return aether.deny("aphlict", "channels of aphlict are for its clients")
end

aether.on.subscribe("aphlict.*", { async = false }, own_instance_only)
aether.on.history("aphlict.*", { async = false }, own_instance_only)
aether.on.publish("aphlict.*", function()
	return aether.deny("aphlict", "publish here by POST to the admin server of aphlict")
end)

aether.on.retention("aphlict.*", function()
	return { age = "60s", count = 4096, bytes = "4MiB", ack = "memory" }
end)

-- What clients say. No command has an answer if it makes no sense; it is counted, and whoever goes on is sent away.

local commands = {}

local function each_channel(c, ids, act)
	if type(ids) ~= "table" then return c:fail("bad_data", "expected a list of ids") end
	for at, id in ids do
		if at == MOST_IDS + 1 then return c:fail("bad_data", `one frame names at most {MOST_IDS} ids; those before it count`) end
		if type(id) ~= "string" then return c:fail("bad_data", "an id is a string") end
		act(c, instance.channel(c.tenant, id))
	end
end

function commands.subscribe(c, data)
	each_channel(c, data, c.subscribe)
end

function commands.unsubscribe(c, data)
	each_channel(c, data, c.unsubscribe)
end

function commands.replay(c, data)
	local age = type(data) == "table" and data.age or 0
	if type(age) ~= "number" or age < 0 then return c:fail("bad_data", "an age is a number of milliseconds") end
	if age == 0 or age > WINDOW then age = WINDOW end
	if not replays:take(c.id) then return c:fail("too_many", "one replay a second is enough") end
	c:replay(`{math.ceil(age)}ms`)
end

function commands.ping(c)
	c:reply('{"type":"pong"}')
end

local mounts = {}
for _, address in cfg.client do
	table.insert(mounts, { ws = "/*", listen = address })
end

aether.dialect("aphlict", {
	mount = mounts,
	origins = cfg.origins,
	async = false,
	on_open = function(c)
		node.joined(c.tenant)
	end,
	on_frame = function(c, frame)
		local said = json.decode(frame)
		local command = type(said) == "table" and type(said.command) == "string" and commands[said.command]
		if not command then return c:fail("bad_command", "expected {command, data}") end
		command(c, said.data)
	end,
	encode = function(ev)
		return if ev.kind == "message" then ev.payload else nil
	end,
	refuse = function(no)
		-- Health checks expect it of a server that lives.
		if no.status == 426 or no.status == 405 then return { status = 501, body = "HTTP/501 Use Websockets\n" } end
		return nil
	end,
})

-- What publishers and peers say.

-- How many connections listen to any of them. Of a crowd no more are looked at than there is time for.
local function listeners(channels)
	local sessions, count, looked = {}, 0, 0
	for _, channel in channels do
		local listed, there = aether.presence(channel)
		for _, s in listed do
			if not sessions[s.id] then
				sessions[s.id], count = true, count + 1
			end
		end
		-- A thousand are listed.
		count, looked = count + there - #listed, looked + 1 + #listed
		if looked > MOST_LOOKED_AT then break end
	end
	return count
end

local function deliver(where, said)
	local channels = {}
	for _, id in said.subscribers do
		table.insert(channels, instance.channel(where.tenant, id))
	end
	if #channels > 0 and not aether.publish_now(channels, said.text, { media = "json", once = true }) then return false end
	node.took(listeners(channels))
	return true
end

local function post(req)
	-- A publisher is no browser: a page that somebody looks at must not publish in their network.
	if req:header("origin") then return { status = 403 } end
	if req.size > LONGEST then return { status = 413 } end
	local said, where = message.read(req:text()), instance.of_query(req.query)
	if not said or #said.subscribers > MOST_SUBSCRIBERS then return { status = 400 } end

	local me = node.fingerprint()
	local receipt = { headers = { ["content-type"] = "application/json" }, body = `\{"fingerprint":"{me}"}` }
	if table.find(said.touched, me) then return receipt end
	if #peers.all > 0 and not said.unique and #said.touched == 0 then message.name(said, node.random(32)) end
	if not seen.first(where.tenant, said) then return receipt end

	message.touch(said, me)
	if not deliver(where, said) then
		seen.forget(where.tenant, said)
		return { status = 503 }
	end
	peers.tell(where, said)
	return receipt
end

local function status(req)
	return { headers = { ["content-type"] = "application/json" }, body = node.status(instance.of_query(req.query), VERSION) }
end

for _, address in cfg.admin do
	local there = { auth = "none", listen = address }
	for _, method in { "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS" } do
		aether.http.route(method, "/", there, if method == "POST" then post else function() return { status = 405 } end)
		aether.http.route(method, "/status/", there, status)
		aether.http.route(method, "/*", there, function() return { status = 404 } end)
	end
	if cfg.gorge then
		aether.http.route("GET", "/healthz", there, function() return { json = { status = "ok" } } end)
	end
end

for _, peer in peers.all do
	aether.every("1s", function() peers.catch_up(peer) end)
end

aether.on.load(function() node.started() end)
