local t = aether.test

local KEY = "a key for tests that is long enough for HS256"

t.secret("signing_key", KEY)

local function token(claims, key)
	claims.exp = claims.exp or t.clock.now() / 1000 + 3600
	return aether.jwt.sign(claims, { alg = "HS256", key = key or KEY })
end

t.case("a token says who somebody is and what they may read and write", function()
	local alice = t.allowed(t.connect({ bearer = token({
		sub = "alice",
		tenant = "acme",
		role = "editor",
		channels = { "user.alice.*" },
		publish = { "chat.*" },
	}) }))
	t.equal({ alice.user, alice.tenant, alice.attrs.role }, { "alice", "acme", "editor" })
	t.equal(alice.grants, {
		subscribe = { "user.alice.*" },
		history = { "user.alice.*" },
		publish = { "chat.*" },
		admin = false,
	})
	t.allowed(t.subscribe(alice, "user.alice.orders"))
	t.allowed(t.history(alice, "user.alice.orders"))
	t.allowed(t.publish(alice, "chat.1", { text = "hello" }))
	t.denied(t.subscribe(alice, "user.bob.orders"), "not_allowed")
	t.denied(t.publish(alice, "user.alice.orders", "x"), "not_allowed")
end)

t.case("a token may come in the query", function()
	t.equal(t.allowed(t.connect({ query = { token = token({ sub = "alice" }) } })).user, "alice")
end)

t.case("a number as sub is a user all the same", function()
	t.equal(t.allowed(t.connect({ bearer = token({ sub = 42 }) })).user, "42")
end)

t.case("what is no token is left to the next plugin", function()
	t.denied(t.connect({ bearer = "a-key-without-dots" }), "unauthorized", "no rule knows this credential")
	t.denied(t.connect(), "unauthorized", "a credential is required")
end)

t.case("a forged token is refused", function()
	local forged = token({ sub = "alice" }, string.rep("another key ", 4))
	t.denied(t.connect({ bearer = forged }), "bad_token", "signature")
	t.denied(t.connect({ bearer = "a.b.c" }), "bad_token")
end)

t.case("a token ends, with a leeway for clocks that differ", function()
	local raw = token({ sub = "alice", exp = t.clock.now() / 1000 + 60 })
	t.clock.advance("89s")
	t.equal(t.allowed(t.connect({ bearer = raw })).expires, t.clock.now() / 1000 + 1)
	t.clock.advance("1s")
	t.denied(t.connect({ bearer = raw }), "bad_token", "expired")
end)

t.case("a token that is for later is refused until then", function()
	local raw = token({ sub = "alice", nbf = t.clock.now() / 1000 + 60 })
	t.denied(t.connect({ bearer = raw }), "bad_token", "not valid yet")
	t.clock.advance("30s")
	t.allowed(t.connect({ bearer = raw }))
end)

t.case("a token that never ends is refused unless the operator says otherwise", function()
	local raw = aether.jwt.sign({ sub = "alice" }, { alg = "HS256", key = KEY })
	t.denied(t.connect({ bearer = raw }), "bad_token", "exp is missing")
	t.config({ require_exp = false })
	t.equal(t.allowed(t.connect({ bearer = raw })).expires, nil)
end)

t.case("issuer and audience are asked for where they are set", function()
	t.config({ issuer = "https://login.example", audience = "hub" })
	t.denied(t.connect({ bearer = token({ sub = "a", aud = "hub" }) }), "bad_token", "iss")
	t.denied(t.connect({ bearer = token({ sub = "a", iss = "https://login.example", aud = "x" }) }), "bad_token", "audience")
	t.allowed(t.connect({ bearer = token({ sub = "a", iss = "https://login.example", aud = "hub" }) }))
end)

t.case("claims that are no lists of patterns are refused, and not half believed", function()
	t.denied(t.connect({ bearer = token({ sub = "a", channels = "user.*" }) }), "bad_token", "lists of strings")
	t.denied(t.connect({ bearer = token({ sub = "a", channels = { "a" }, publish = { 1 } }) }), "bad_token")
	t.denied(t.connect({ bearer = token({ sub = "a", channels = { a = "b" } }) }), "bad_token")
end)

t.case("names that begin with $ are granted to nobody", function()
	local alice = t.allowed(t.connect({ bearer = token({ sub = "a", channels = { "$user.*", "news" } }) }))
	t.equal(alice.grants.subscribe, { "news" })
end)

t.case("a new token goes on, somebody else's does not", function()
	local alice = t.allowed(t.connect({ bearer = token({ sub = "alice", channels = { "a" } }) }))
	local again = t.allowed(t.refresh(alice, token({ sub = "alice", channels = { "b" } })))
	t.denied(t.subscribe(again, "a"), "not_allowed")
	t.allowed(t.subscribe(again, "b"))
	t.denied(t.refresh(alice, token({ sub = "bob" })), "other_user")
end)

t.case("without its key it does not load", function()
	t.secret("signing_key", "short")
	local ok, why = t.load()
	t.equal(ok, false)
	t.matches(why, "jwt%-auth/main.lua:%d+: .*at least 32")
end)

t.case("a connection may outlive its token where the settings say so, and what is remembered of a request may not", function()
	t.config({ end_with_token = false })
	local raw = token({ sub = "alice", exp = t.clock.now() / 1000 + 60 })
	t.equal(t.allowed(t.connect({ bearer = raw, transport = "ws" })).expires, nil)
	t.equal(t.allowed(t.connect({ bearer = raw, transport = "http" })).expires, t.clock.now() / 1000 + 90)
	t.clock.advance("90s")
	t.denied(t.connect({ bearer = raw, transport = "ws" }), "bad_token", "expired")
end)
