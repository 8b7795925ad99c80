-- The back end does not answer; what it answers over real connections is tried in tests/plugins_http_auth.rs.
local t = aether.test

t.config({ url = "http://127.0.0.1:9/hub", subscribe = { "room.*" }, failures = 2, rest = "5s" })
t.http.stub("*", "http://127.0.0.1:9/*", "connection refused")

local function unavailable(answer)
	t.denied(answer, "unavailable", "cannot be asked")
	t.equal({ answer.kind, answer.retry_ms }, { "busy", 5000 })
end

t.case("who cannot be asked about is refused, and told to come back", function()
	unavailable(t.connect({ bearer = "x" }))
	unavailable(t.subscribe("ann", "room.1"))
end)

t.case("who shows no credential is left to the next rule", function()
	t.denied(t.connect(), "unauthorized")
end)

t.case("who does not answer is left alone for a while", function()
	for n = 1, 5 do unavailable(t.connect({ bearer = "x" .. n })) end
	t.equal(#t.logs(), 2)
	t.clock.advance("6s")
	unavailable(t.connect({ bearer = "y" }))
	t.equal(#t.logs(), 3)
	t.equal(t.logs()[3].fields.failures, 1)
end)

t.case("a credential is never logged", function()
	unavailable(t.connect({ bearer = "hunter2" }))
	assert(not string.find(aether.json.encode(t.logs()), "hunter2", 1, true))
end)

t.case("without an address it does not load", function()
	t.config({})
	local ok, why = t.load()
	t.equal(ok, false)
	t.matches(why, "url is required")
end)
