-- What may stand around handlers: recovery, timeout, logger.

local middleware = {}

-- What a handler raises becomes what it returns, for those further out.
function middleware.recovery()
	return function(s, env, next)
		local ok, result, why = pcall(next)
		if not ok then return nil, tostring(result) end
		return result, why
	end
end

-- A handler that takes longer has failed. It is not interrupted: it sees env.deadline_ms, and the hub's own limits hold.
function middleware.timeout(seconds)
	if type(seconds) ~= "number" then error("rt.timeout: expected seconds, like 2", 2) end
	return function(s, env, next)
		if seconds <= 0 then return next() end
		env.deadline_ms = aether.now_ms() + seconds * 1000
		local result, why = next()
		if aether.now_ms() > env.deadline_ms then return nil, "timeout" end
		return result, why
	end
end

function middleware.logger()
	return function(s, env, next)
		local result, why = next()
		if why ~= nil then aether.log.warn("a message failed", { session = s.id, route = env.route, error = tostring(why) }) end
		return result, why
	end
end

return middleware
