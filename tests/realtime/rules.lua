-- The operator's file in the tests of the dialect realtime.

local rt = require("@realtime")

aether.on.connect(function(req)
	local tenant, id = string.match(req.query.as or "", "^([^/]*)/(.*)$")
	if not id then return nil end
	return aether.allow({ user = id, tenant = tenant ~= "" and tenant or nil, attrs = { roles = { "member" } } })
end)

rt.on_connect(function(s)
	if s.identity.id == "mallory" then return nil, "not you" end
	if s.identity.id == "greeted" then s:send("hello", { id = s.identity.id, roles = s.identity.roles }) end
	return true
end)

rt.on_disconnect(function(s, report)
	local told = { id = s.identity.id, initiator = report.initiator, code = report.code, reason = report.reason, expected = report.expected }
	aether.publish("reports", told)
end)

rt.handle("echo", function(s, env)
	return s:send_message({ id = env.id, route = "echo", data = env.data, metadata = env.metadata })
end)
rt.handle("wrap", function(s, env) return s:send("wrapped", { by = s.identity.id, list = { env.data, 1 } }) end)
rt.handle("chat.send", function(s) return s:send("by", "chat.send") end)
rt.prefix("chat.", function(s) return s:send("by", "chat.") end)
rt.prefix("chat.admin.", function(s) return s:send("by", "chat.admin.") end)
rt.fallback(function(s, env) return s:send("by", "fallback of " .. env.route) end)

rt.handle("all", function(s, env) return rt.broadcast("news", env.data) end)
rt.handle("dm", function(s, env)
	local to = env:json()
	local ok, why = rt.send_to_identity(to.tenant, to.id, "dm", { from = s.identity.id })
	return s:send("sent", { ok = ok == true, why = why })
end)
rt.handle("online", function(s, env)
	local who = env:json()
	return s:send("online", rt.is_online(who.tenant, who.id))
end)
rt.handle("sessions", function(s) return s:send("sessions", rt.sessions(s.identity.tenant_id, s.identity.id)) end)
rt.handle("join", function(s, env) return s:join(env:json()) end)
rt.handle("leave", function(s, env) return s:leave(env:json()) end)
rt.handle("room", function(s, env)
	local ok, why = rt.send_to_room(s.identity.tenant_id, env:json(), "room", s.identity.id)
	return s:send("sent", { ok = ok == true, why = why })
end)
rt.handle("close", function(s)
	s:close(4001, "as you wish")
	s:close(4002, "not this one")
end)
rt.handle("raises", function() error("boom") end)
rt.handle("fails", function() return nil, "it cannot be" end)
