-- Who is in a channel, who comes and goes, and whether somebody is online.

local cfg = aether.config
local ABOUT = "presence."

-- Sessions as people: each user once, and how many are there without one.
local function people(sessions)
	local users, anonymous, seen = aether.json.array({}), 0, {}
	for _, s in sessions do
		if not s.user then
			anonymous += 1
			continue
		end
		-- Parts of known length: `a` of tenant `b` and `b.a` of none are two.
		local id = `{#(s.tenant or "")}:{s.tenant or ""}{s.user}`
		if not seen[id] then
			seen[id] = { user = s.user, tenant = s.tenant, sessions = 0 }
			table.insert(users, seen[id])
		end
		seen[id].sessions += 1
	end
	table.sort(users, function(a, b)
		if a.user ~= b.user then return a.user < b.user end
		return (a.tenant or "") < (b.tenant or "")
	end)
	return { users = users, anonymous = anonymous, sessions = #sessions }
end

local presence = {}

-- Who listens to a channel: { users = { { user, tenant, sessions } }, anonymous, sessions }.
function presence.of(channel)
	return people(aether.presence(channel))
end

-- Whether somebody is connected at all, whatever they listen to.
function presence.online(user, tenant)
	return #aether.sessions({ user = user, tenant = tenant }) > 0
end

aether.export(presence)

-- What has happened is said in a channel of its own, to those who may listen there; nothing of it is kept.
local function tell(event)
	return function(ch, sessions)
		if string.sub(ch.name, 1, #ABOUT) == ABOUT then return end -- who listens for others is nobody's news
		local said = people(sessions)
		said.channel, said.now = ch.name, #aether.presence(ch.name)
		aether.publish(ABOUT .. ch.name, said, { event = event, fleeting = true })
	end
end

for _, pattern in cfg.channels do
	aether.on.join(pattern, { debounce = cfg.debounce }, tell("joined"))
	aether.on.leave(pattern, { debounce = cfg.debounce }, tell("left"))
end

aether.http.route("GET", "/presence/channels/*", function(req)
	local there = presence.of(req.params.rest)
	return { json = { ok = true, channel = req.params.rest, users = there.users, anonymous = there.anonymous, sessions = there.sessions } }
end)

aether.http.route("GET", "/presence/users/{user}", function(req)
	local sessions = aether.sessions({ user = req.params.user, tenant = req.query.tenant })
	local list = aether.json.array({})
	for _, s in sessions do
		table.insert(list, { id = s.id, tenant = s.tenant, transport = s.transport, ip = s.ip })
	end
	return { json = { ok = true, user = req.params.user, online = #sessions > 0, sessions = list } }
end)
