local t = aether.test

t.secret("signing_key", string.rep("k", 32))
t.http.stub("GET", "https://auth.internal/keys.json", { json = { keys = aether.json.array({}) } })

t.case("a subscribe hook waits for a back end", function()
	t.http.stub("GET", "https://auth.internal/teams/*", { status = 404 })
	t.denied(t.subscribe("bob", "team.blue"), "not_member")
	t.http.stub("GET", "https://auth.internal/teams/red", { status = 200 })
	t.allowed(t.subscribe("bob", "team.red"))
	t.denied(t.subscribe("bob", "team.blue"), "not_member")
end)

t.case("a call may fail", function()
	t.http.stub("*", "https://auth.internal/teams/*", "auth.internal did not answer within 1s")
	t.denied(t.subscribe("bob", "team.blue"), "unavailable", "did not answer")
end)

t.case("an async publish hook shows the back end what it was asked about", function()
	t.http.stub("POST", "https://auth.internal/orders", function(req)
		return { status = if req.json.order.n > 2 then 403 else 200 }
	end)
	t.allowed(t.publish("bob", "order.1", { n = 1 }))
	t.denied(t.publish("bob", "order.1", { n = 3 }))
	local calls = t.http.calls()
	local call = calls[#calls]
	t.equal(
		{ call.method, call.url, call.json, call.headers["x-key"], call.plugin },
		{ "POST", "https://auth.internal/orders", { user = "bob", order = { n = 3 } }, "k", "library" }
	)
end)

t.case("a memo asks once until its time is over", function()
	local role, asked = "mod", 0
	t.http.stub("GET", "https://auth.internal/roles/*", function()
		asked += 1
		return { json = { role = role } }
	end)
	for _ = 1, 3 do t.allowed(t.subscribe("bob", "role.mod")) end
	t.equal(asked, 1)
	role = "reader"
	t.clock.advance("29s")
	t.allowed(t.subscribe("bob", "role.mod"))
	t.clock.advance("2s")
	t.denied(t.subscribe("bob", "role.mod"))
	t.equal(asked, 2)
end)

t.case("an errand is run beside the route that sends it", function()
	t.http.stub("POST", "https://auth.internal/rooms", { status = 204 })
	t.equal(t.route("PUT", "/rooms/7", {}).json, { sent = true })
	t.clock.advance("1s")
	local calls = t.http.calls()
	t.equal(calls[#calls].json, { room = "7" })
end)

t.case("published keys are fetched when they are unknown, and not too often", function()
	local fetched = 0
	t.http.stub("GET", "https://auth.internal/keys.json", function()
		fetched += 1
		return { json = { keys = aether.json.array({}) } }
	end)
	local header = aether.crypto.base64.url_encode('{"alg":"RS256","kid":"1"}')
	local token = `{header}.{aether.crypto.base64.url_encode('{"sub":"eve"}')}.c2ln`
	t.denied(t.connect({ bearer = token }), "bad_token")
	t.equal(fetched, 1)
	for _ = 1, 5 do t.denied(t.connect({ bearer = token }), "bad_token") end
	t.equal(fetched, 1)
end)
