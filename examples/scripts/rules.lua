-- Handlers for clients of realtime: the exact route, else the longest prefix, else the fallback.
local rt = require("@realtime")

rt.use(rt.recovery())
rt.use(rt.timeout(2))

rt.handle("echo", function(s, env)
	return s:send("echo", env.data)
end)

rt.prefix("room.", function(s, env)
	return rt.broadcast(env.route, env.data)
end)

rt.fallback(function(s, env)
	return s:send("unknown", { route = env.route })
end)
