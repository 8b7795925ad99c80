-- Saying something to others than the session at hand, and who is there to hear it.

local envelope, names = require("./envelope"), require("./names")
local session = require("./session")
local cfg = aether.config

local send = {}

local function say(channel, env)
	return aether.publish(channel, envelope.write(env), { media = "json" })
end

-- As above; nil and "session_closed" if nobody is there.
local function say_to(channel, env)
	if #aether.presence(channel) == 0 then return nil, "session_closed" end
	return say(channel, env)
end

function send.broadcast(route, data)
	return say(names.all, { route = route, data = data })
end

function send.broadcast_message(env)
	return say(names.all, env)
end

function send.send_to_identity(tenant, id, route, data)
	return say_to(names.identity(tenant, id), { route = route, data = data })
end

function send.send_message_to_identity(tenant, id, env)
	return say_to(names.identity(tenant, id), env)
end

function send.send_to_session(id, route, data)
	return say_to(names.session(id), { route = route, data = data })
end

function send.send_to_room(tenant, room, route, data)
	local name, why = names.room(tenant, room)
	if not name then return nil, why end
	return say_to(name, { route = route, data = data })
end

function send.is_online(tenant, id)
	return #aether.presence(names.identity(tenant, id)) > 0
end

function send.sessions(tenant, id)
	local list = aether.json.array({})
	for _, one in aether.presence(names.identity(tenant, id)) do
		table.insert(list, {
			session_id = one.id,
			identity_id = one.user,
			tenant_id = one.tenant or "",
			node_id = cfg.node_id,
			remote_addr = one.ip,
			connected_at = session.time(one.connected_ms),
			expires_at = one.expires_ms and session.time(one.expires_ms),
		})
	end
	return list
end

return send
