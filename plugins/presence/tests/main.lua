local t = aether.test

t.config({ channels = { "*" }, debounce = "2s" })

local open = { subscribe = aether.patterns({ "*" }) }
local admin = { user = "admin", grants = { admin = true } }

local function come(user, channel, tenant)
	local who = { user = user, tenant = tenant, grants = open }
	t.allowed(t.subscribe(who, channel))
	return who
end

local function told()
	local list = {}
	for _, message in t.published() do
		table.insert(list, { message.channels[1], message.event, message.payload.users[1] and message.payload.users[1].user })
	end
	return list
end

t.case("who comes and goes is told in a channel of its own", function()
	local ann = come("ann", "room.1")
	t.equal(told(), { { "presence.room.1", "joined", "ann" } })
	t.equal(t.published()[1].payload, {
		channel = "room.1",
		users = { { user = "ann", sessions = 1 } },
		anonymous = 0,
		sessions = 1,
		now = 1,
	})
	t.disconnect(ann)
	t.clock.advance("3s")
	t.equal(told()[2], { "presence.room.1", "left", "ann" })
	t.equal(t.published()[2].payload.now, 0)
end)

t.case("who comes back at once has not been away", function()
	local ann = come("ann", "room.1")
	t.disconnect(ann)
	t.clock.advance("1s")
	come("ann", "room.1")
	t.clock.advance("3s")
	t.equal(#t.published(), 1)
end)

t.case("who listens for others is nobody's news", function()
	come("ann", "presence.room.1")
	t.equal(t.published(), {})
end)

t.case("who is in a channel, each user once", function()
	for _ = 1, 2 do come("ann", "room.1") end
	come("bob", "room.1", "acme")
	come(nil, "room.1")
	come("eve", "room.2")
	local answer = t.route("GET", "/presence/channels/room.1", { who = admin })
	t.equal(answer.json, {
		ok = true,
		channel = "room.1",
		users = { { user = "ann", sessions = 2 }, { user = "bob", tenant = "acme", sessions = 1 } },
		anonymous = 1,
		sessions = 4,
	})
	t.equal(t.route("GET", "/presence/channels/nowhere", { who = admin }).json.users, {})
	t.denied(t.route("GET", "/presence/channels/room.1"))
end)

t.case("whether somebody is online", function()
	come("ann", "room.1", "acme")
	local answer = t.route("GET", "/presence/users/ann", { who = admin }).json
	t.equal({ answer.online, #answer.sessions, answer.sessions[1].transport }, { true, 1, "ws" })
	t.equal(t.route("GET", "/presence/users/ann", { who = admin, query = { tenant = "other" } }).json.online, false)
	t.equal(t.route("GET", "/presence/users/bob", { who = admin }).json.online, false)
end)
