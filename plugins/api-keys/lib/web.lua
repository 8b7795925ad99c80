-- Questions and answers over HTTP, in the shapes of `/api/v2/keys`.

local null = aether.json.null

local web = {}

function web.fail(status, code, reason, message)
	return { status = status, json = { ok = false, error = { code = code, reason = reason, message = message } } }
end

function web.time(ms)
	return os.date("!%Y-%m-%dT%H:%M:%S", ms // 1000) .. string.format(".%03dZ", ms % 1000)
end

function web.meta(key)
	return {
		id = key.id,
		name = key.name,
		key_prefix = key.prefix,
		permissions = {
			publish = key.publish or null,
			subscribe = key.subscribe or null,
			history = key.history,
			admin = key.admin == true,
		},
		created_at = web.time(key.created),
		expires_at = key.expires and web.time(key.expires),
		revoked_at = key.revoked and web.time(key.revoked),
	}
end

local UNITS = { h = 3600000, m = 60000, s = 1000, ms = 1, us = 0.001, ns = 0.000001 }

-- Milliseconds of a duration as Go writes it: `1h30m`.
function web.duration_ms(text)
	local sum, rest = 0, text
	repeat
		local number, unit, after = string.match(rest, "^(%d+%.?%d*)(%a+)(.*)$")
		if not number or not UNITS[unit] then return nil end
		sum, rest = sum + tonumber(number) * UNITS[unit], after
	until rest == ""
	return sum
end

return web
