-- What a Go program asked of the framework in its own process, it asks here over HTTP, with a key that may administer.

local send, envelope = require("./send"), require("./envelope")

local function answered(ok, why)
	if ok then return { json = { ok = true } } end
	local status = if why == "session_closed" then 404 else 503
	return { status = status, json = { ok = false, error = why } }
end

-- The body's envelope, and beside it whom it is for.
local function read(req)
	local env, why = envelope.read(req:text())
	if not env then return nil, { status = 400, json = { ok = false, error = "bad_envelope", message = why } } end
	return env, req:json()
end

-- A segment cannot be empty: no tenant is % here, as in the names of channels.
local function tenant_of(req)
	return if req.params.tenant == "%" then "" else req.params.tenant
end

return function(path)
	aether.http.route("POST", path .. "/broadcast", function(req)
		local env, no = read(req)
		if not env then return no end
		return answered(send.broadcast_message(env))
	end)

	aether.http.route("POST", path .. "/identities/{tenant}/{id}/send", function(req)
		local env, no = read(req)
		if not env then return no end
		return answered(send.send_message_to_identity(tenant_of(req), req.params.id, env))
	end)

	aether.http.route("GET", path .. "/identities/{tenant}/{id}/sessions", function(req)
		return { json = send.sessions(tenant_of(req), req.params.id) }
	end)
end
