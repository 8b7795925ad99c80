local t = aether.test
local envelope, routes = require("../lib/envelope"), require("../lib/routes")

t.config({ authenticator = "anonymous", error_route = "err" })

local admin = { user = "admin", grants = { admin = true } }

local function send(path, body)
	return t.route("POST", path, { who = admin, body = body })
end

t.case("an envelope is read, and written as it was", function()
	local text = '{"id":"1","route":"a","data":{"n":9007199254740993, "f":1.0},"metadata":{"k":"v"}}'
	t.equal(envelope.write(envelope.read(text)), text)
	t.equal(envelope.write(envelope.read("{}")), "{}")
	t.equal(envelope.write(envelope.read('{"data":null,"id":null,"metadata":{}}')), '{"data":null}')
end)

t.case("what is no envelope is not read", function()
	for _, text in { "", "null", "[]", '{"id":1}', '{"route":[]}', '{"metadata":{"k":1}}', '{"metadata":9007199254740993}' } do
		local env, why = envelope.read(text)
		t.equal(env, nil, text)
		t.equal(type(why), "string", text)
	end
end)

t.case("data that came in stands byte for byte in whatever is sent", function()
	local data = envelope.read('{"data":{"f":1.0}}').data
	t.equal(envelope.write({ data = { b = { data, 2 }, a = data } }), '{"data":{"a":{"f":1.0},"b":[{"f":1.0},2]}}')
	t.equal(data:json().f, 1)
end)

t.case("an exact route, else the longest prefix, else the fallback", function()
	t.equal(routes.find("a.b.c"), nil)
	local exact, long, short, last = function() end, function() end, function() end, function() end
	routes.prefix("a.", short)
	routes.prefix("a.b.", long)
	routes.fallback(last)
	routes.handle("a.b.c", exact)
	for route, handler in { ["a.b.c"] = exact, ["a.b.d"] = long, ["a.bb"] = short, a = last, [""] = last } do
		t.equal(routes.find(route) == handler, true, route)
	end
	t.raises(function() routes.handle("a.b.c", exact) end, "has a handler already")
	t.raises(function() routes.prefix("a.", short) end, "has a handler already")
	t.raises(function() routes.fallback(last) end, "there is one already")
	t.raises(function() routes.handle("x") end, "expected a function")
end)

t.case("a client hears what is said to all and to its identity, and nobody else hears that", function()
	local one = t.dialect("realtime")
	local body = '{"route":"news","data":{"f":1.0}}'
	t.equal(send("/rt/broadcast", body).status, 200)
	t.equal(one:texts(), { body })
	t.equal(one:hears({ channel = "realtime.identity.%.anonymous", payload = { 1 }, event = "r" }).bytes, '{"route":"r","data":[1]}')
end)

t.case("who is dropped a message is told how many", function()
	local one = t.dialect("realtime")
	local told = one:hears({ channel = "realtime.all", kind = "gap", first = 3, last = 7, cause = "skipped" })
	t.equal(told.bytes, '{"route":"realtime.dropped","data":{"dropped":5}}')
end)

t.case("a message without a handler, and one that is none, fail and the connection goes on", function()
	local one = t.dialect("realtime")
	one:frame('{"id":"7","route":"nowhere"}')
	one:frame("[]")
	local said = one:texts()
	t.equal(said[1], '{"id":"7","route":"err","data":{"code":"unknown_route","message":"unknown_route"}}')
	t.matches(said[2], '"code":"bad_envelope"')
	t.equal(one.closed, nil)
end)

t.case("somebody else has none of its channels", function()
	local eve = { user = "eve", grants = { subscribe = aether.patterns({ "*" }), history = aether.patterns({ "*" }), publish = aether.patterns({ "*" }) }, transport = "ws" }
	for _, channel in { "realtime.all", "realtime.identity.%.anonymous", "realtime.session.x" } do
		t.denied(t.subscribe(eve, channel), "not_yours")
		t.denied(t.history(eve, channel), "no_history")
		t.denied(t.publish(eve, channel, "{}"), "back_end_only")
	end
end)

t.case("its channels keep nothing, and a slow client is closed", function()
	local kept = t.retention("realtime.all")
	t.equal({ kept.history, kept.lag, kept.max_lag }, { false, "close", 256 })
end)

t.case("who publishes over HTTP as somebody of a tenant reaches that tenant and no other", function()
	local all = aether.patterns({ "*" })
	local mal = { user = "mallory", tenant = "t2", grants = { publish = all }, transport = "http" }
	for _, channel in { "realtime.identity.t1.bob", "realtime.room.t1.r", "realtime.all", "realtime.session.1", "realtime.identity.%.bob" } do
		t.denied(t.publish(mal, channel, "{}"), "other_tenant")
	end
	t.allowed(t.publish(mal, "realtime.identity.t2.ann", "{}"))
	local shop = { user = "shop", grants = { publish = all }, transport = "http" }
	t.allowed(t.publish(shop, "realtime.all", "{}"))
end)
