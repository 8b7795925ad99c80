-- Tests of your rules: `aether test scripts` plays them, and a reload can be held back by one that fails.
local t = aether.test

t.case("anybody may connect without a credential, and has no rights of its own", function()
	local anybody = t.allowed(t.connect())
	t.equal(anybody.user, nil)
	t.denied(t.subscribe(anybody, "room.42"), "not_allowed")
	t.denied(t.publish(anybody, "public.news", "x"), "not_allowed")
end)

t.case("a credential that nobody knows is refused", function()
	t.denied(t.connect({ bearer = "whatever" }), "unauthorized")
end)

t.case("what is public may be heard and read back", function()
	t.allowed(t.subscribe(nil, "public.news"))
	t.allowed(t.history(nil, "public.news"))
end)
