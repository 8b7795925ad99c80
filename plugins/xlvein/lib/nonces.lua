-- Nonces that were used: on disk, in a ring, so that there is an end to them. Only who knows a secret gets one in here.

local cfg = aether.config
local store = aether.kv("nonces")

local nonces = {}

local function key(app, nonce)
	return { app.key, "used", aether.crypto.sha256(nonce) }
end

-- Takes a nonce. False if it was taken before; nil if so many come that one would be forgotten within the time in which it must not.
function nonces.take(app, nonce)
	local used = key(app, nonce)
	if not store:set(used, true, { if_absent = true, ttl = cfg.remember }) then return false end

	local place = { app.key, "ring", store:incr({ app.key, "count" }) % cfg.max_nonces }
	local oldest = store:get(place)
	if oldest then
		if aether.now_ms() - oldest.at < 2000 * cfg.window then
			store:delete(used)
			return nil
		end
		store:delete(app.key, "used", oldest.hash)
	end
	store:set(place, { hash = used[3], at = aether.now_ms() }, { ttl = cfg.remember })
	return true
end

-- What was refused after all may be sent again.
function nonces.free(app, nonce)
	store:delete(key(app, nonce))
end

return nonces
