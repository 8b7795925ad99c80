-- This node: its fingerprint, and what it counts.

local crypto, json = aether.crypto, aether.json
local own, instances = aether.shared("aphlict"), aether.shared("aphlict_instances")
local node = {}

local LETTERS = "23456789abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
node.WINDOW = 60

function node.random(length)
	local text = ""
	while #text < length do
		local byte = string.byte(crypto.random(1))
		-- 220 is four times the letters: each is as likely as the others.
		if byte < 220 then
			local at = byte % 55 + 1
			text ..= string.sub(LETTERS, at, at)
		end
	end
	return text
end

-- The same in all threads, another one after each start.
function node.fingerprint()
	local known = own:get("fingerprint")
	if known then return known end
	own:set("fingerprint", node.random(16), { if_absent = true })
	return own:get("fingerprint")
end

function node.started()
	own:set("started", aether.now_ms(), { if_absent = true })
end

function node.joined(tenant)
	instances:incr({ "joined", tenant })
end

-- A message was taken in, and is on its way to so many.
function node.took(listeners)
	local now = aether.now_ms()
	local second = now // 1000
	own:incr({ "in" })
	own:incr({ "out" }, listeners)
	own:incr({ "kept", second }, 1, { ttl = node.WINDOW + 1 })
	own:set({ "first", second }, now, { if_absent = true, ttl = node.WINDOW + 1 })
end

-- How many messages are young enough to be replayed, and how old the oldest of them is.
local function kept(now)
	local size, age = 0, json.null
	for second = now // 1000 - node.WINDOW, now // 1000 do
		local first = own:get("first", second)
		if first and first >= now - node.WINDOW * 1000 then
			size += own:get("kept", second) or 0
			if age == json.null then age = now - first end
		end
	end
	return size, age
end

-- The members in the order of old, for people who read it.
function node.status(instance, version)
	local now = aether.now_ms()
	local _, active = aether.sessions({ tenant = instance.tenant })
	local size, age = kept(now)
	local members = {
		{ "instance", instance.name },
		{ "uptime", now - (own:get("started") or now) },
		{ "clients.active", active },
		{ "clients.total", instances:get("joined", instance.tenant) or 0 },
		{ "messages.in", own:get("in") or 0 },
		{ "messages.out", own:get("out") or 0 },
		{ "version", version },
		{ "history.size", size },
		{ "history.age", age },
	}
	for at, member in members do
		members[at] = `"{member[1]}":{json.encode(member[2])}`
	end
	return `\{{table.concat(members, ",")}}`
end

return node
