-- `s`: a session as handlers have it, for as long as their hook runs.

local envelope, names = require("./envelope"), require("./names")

local Session = {}
Session.__index = Session

local session = {}

function session.time(ms)
	return os.date("!%Y-%m-%dT%H:%M:%S", ms // 1000) .. string.format(".%03dZ", ms % 1000)
end

function session.of(c)
	local claims = c.attrs or {}
	return setmetatable({
		c = c,
		id = c.id,
		identity = { id = c.user, tenant_id = c.tenant or "", roles = claims.roles or aether.json.array({}), claims = claims },
		remote_addr = c.ip,
		connected_at = session.time(c.connected_ms),
	}, Session)
end

function Session:send(route, data)
	return self:send_message({ route = route, data = data })
end

function Session:send_message(env)
	if self.closed then return nil, "session_closed" end
	self.c:reply(envelope.write(env))
	return true
end

-- The first call wins.
function Session:close(code, reason)
	if self.closed then return end
	self.c:close(code or 1000, reason)
	self.closed = { code = code or 1000, reason = reason or "" }
end

-- From now on it hears what is said to a room of its tenant.
function Session:join(room)
	local name, why = names.room(self.identity.tenant_id, room)
	if not name then return nil, why end
	self.c:subscribe(name)
	return true
end

function Session:leave(room)
	local name, why = names.room(self.identity.tenant_id, room)
	if not name then return nil, why end
	self.c:unsubscribe(name)
	return true
end

return session
