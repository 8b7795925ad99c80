-- The channels behind it: one of each session, one of each identity, one of all, and the rooms of a tenant.

local channel = aether.channel
local names = { all = "realtime.all" }

function names.session(id)
	return channel.name("realtime", "session", id) or "realtime.nobody"
end

-- Whoever has no tenant is of the tenant "". Identities that fit no name are known by their hash.
function names.identity(tenant, id)
	local whole = channel.name("realtime", "identity", tenant or "", id)
	return whole or "realtime.hashed." .. aether.crypto.sha256(`{#(tenant or "")}:{tenant or ""}{id}`)
end

function names.room(tenant, room)
	return channel.name("realtime", "room", tenant or "", room)
end

local function is_room_of(name, tenant)
	local parts = channel.parts(name)
	return #parts == 4 and parts[2] == "room" and parts[3] == (tenant or "")
end

-- Whether it belongs to a tenant. Of hashed names nobody can tell.
function names.is_within(name, tenant)
	local parts = channel.parts(name)
	return #parts == 4 and (parts[2] == "room" or parts[2] == "identity") and parts[3] == tenant
end

-- Whether it is a channel that this session may hear.
function names.is_of(name, s)
	if s.dialect ~= "realtime" or not s.user then return false end
	return name == names.all
		or name == names.session(s.id)
		or name == names.identity(s.tenant, s.user)
		or is_room_of(name, s.tenant)
end

return names
