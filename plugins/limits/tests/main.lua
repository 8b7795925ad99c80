local t = aether.test

local function limited(limit)
	t.config({ limits = { limit } })
end

local function too_fast(answer)
	t.denied(answer, "rate", "at most")
	t.equal(answer.kind, "busy")
	return answer.retry_ms
end

local open = { publish = aether.patterns({ "*" }), subscribe = aether.patterns({ "*" }), history = aether.patterns({ "*" }) }
local ann = { user = "ann", grants = open }
local bob = { user = "bob", grants = open }

t.case("who is too fast is told how long to wait, and is let in after that", function()
	limited({ on = "publish", per = { "user" }, rate = 2, every = "1s" })
	t.allowed(t.publish(ann, "a", 1))
	t.allowed(t.publish(ann, "b", 1))
	t.equal(too_fast(t.publish(ann, "a", 1)), 500)
	t.allowed(t.publish(bob, "a", 1))
	t.clock.advance("499ms")
	t.equal(too_fast(t.publish(ann, "a", 1)), 1)
	t.clock.advance("1ms")
	t.allowed(t.publish(ann, "a", 1))
end)

t.case("a burst may come at once, after a rest", function()
	limited({ on = "publish", per = { "user" }, rate = 1, every = "1m", burst = 3 })
	for _ = 1, 3 do t.allowed(t.publish(ann, "a", 1)) end
	t.equal(too_fast(t.publish(ann, "a", 1)), 60000)
end)

t.case("users of two tenants are two, and nobody in particular is an address", function()
	limited({ on = "publish", per = { "user" }, rate = 1, every = "1h" })
	t.allowed(t.publish({ user = "ann", tenant = "x", grants = open }, "a", 1))
	t.allowed(t.publish({ user = "ann", tenant = "y", grants = open }, "a", 1))
	t.allowed(t.publish({ ip = "192.0.2.1", grants = open }, "a", 1))
	t.allowed(t.publish({ ip = "192.0.2.2", grants = open }, "a", 1))
	too_fast(t.publish({ ip = "192.0.2.1", grants = open }, "a", 1))
end)

t.case("a channel may have a rate, and each user in it another", function()
	t.config({
		limits = {
			{ on = "publish", per = { "channel" }, rate = 3, every = "1h", channels = { "chat.*" } },
			{ on = "publish", per = { "user", "channel" }, rate = 2, every = "1h", channels = { "chat.*" } },
		},
	})
	for _ = 1, 2 do t.allowed(t.publish(ann, "chat.1", 1)) end
	t.denied(t.publish(ann, "chat.1", 1), "rate", "each user and channel")
	t.denied(t.publish(bob, "chat.1", 1), "rate", "each channel")
	t.allowed(t.publish(ann, "chat.2", 1))
	for _ = 1, 9 do t.allowed(t.publish(ann, "news", 1)) end
end)

t.case("a limit for keys counts keys alone", function()
	limited({ on = "publish", per = { "key" }, rate = 1, every = "1h" })
	local shop = { user = "shop", attrs = { key = "k1" }, grants = open }
	t.allowed(t.publish(shop, "a", 1))
	too_fast(t.publish(shop, "a", 1))
	for _ = 1, 9 do t.allowed(t.publish(ann, "a", 1)) end
end)

t.case("subscribes and reads are counted, a resume is not", function()
	t.config({
		limits = {
			{ on = "subscribe", per = { "user" }, rate = 1, every = "1h" },
			{ on = "history", per = { "user" }, rate = 1, every = "1h" },
		},
	})
	t.allowed(t.subscribe(ann, "a"))
	too_fast(t.subscribe(ann, "b"))
	t.allowed(t.history(ann, "a"))
	too_fast(t.history(ann, "a"))
	t.allowed(t.history(ann, "a", { resume = true }))
end)

t.case("connections are counted by address, before anybody asks who it is", function()
	limited({ on = "connect", per = { "ip" }, rate = 1, every = "10s" })
	t.denied(t.connect({ bearer = "x", ip = "192.0.2.1" }), "unauthorized")
	t.equal(too_fast(t.connect({ bearer = "x", ip = "192.0.2.1" })), 10000)
	t.denied(t.connect({ bearer = "x", ip = "192.0.2.2" }), "unauthorized")
end)

t.case("what can never work does not load", function()
	local function wrong(limit, why)
		limited(limit)
		local ok, said = t.load()
		t.equal(ok, false)
		t.matches(said, why)
	end
	wrong({ on = "connect", per = { "user" }, rate = 1 }, "limits%[1%]%.per: who connects is an address")
	wrong({ on = "publish", per = aether.json.array({}), rate = 1 }, "limits%[1%]%.per: who is counted")
	wrong({ on = "publish", per = { "user" }, rates = 1 }, "limits%[1%]%.rates is not known here; did you mean rate%?")
	wrong({ on = "publich", per = { "user" }, rate = 1 }, "did you mean publish%?")
end)
