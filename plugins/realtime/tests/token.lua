local t = aether.test

t.config({ authenticator = "token", token_identity = "shop", token_tenant = "acme", backpressure = "drop-oldest", send_queue = 5 })
t.secret("realtime_token", string.rep("t", 40))

t.case("whoever shows the token is the identity of the settings", function()
	local shop = t.dialect("realtime", { bearer = string.rep("t", 40) })
	t.equal({ shop.who.user, shop.who.tenant }, { "shop", "acme" })
	local admin = { user = "admin", grants = { admin = true } }
	local sessions = t.route("GET", "/rt/identities/acme/shop/sessions", { who = admin }).json
	t.equal(#sessions, 1)
	t.equal(sessions[1].identity_id, "shop")
end)

t.case("another token, or none, is a 401", function()
	for _, token in { string.rep("t", 39), string.rep("x", 40) } do
		t.equal(t.dialect("realtime", { bearer = token }).refused.status, 401)
	end
	t.equal(t.dialect("realtime").refused.status, 401)
end)

t.case("the policy of a slow client is the one of the settings", function()
	local kept = t.retention("realtime.session.x")
	t.equal({ kept.lag, kept.max_lag }, { "drop_oldest", 5 })
end)
