-- A hub without a key of its own: whoever administers it does so with a key of the settings, or with one that was made.
local t = aether.test

t.config({ keys = { { name = "root", sha256 = aether.crypto.sha256("aek_root"), admin = true } } })

local admin = { user = "root", grants = { admin = true } }

local function ask(method, path, body)
	return t.route(method, path, { who = admin, json = body })
end

t.case("the last key that may administer stays, until there is another", function()
	local root = ask("GET", "/api/v2/keys").json.keys[1]
	t.equal(root.name, "root")
	local refused = ask("DELETE", "/api/v2/keys/" .. root.id)
	t.equal({ refused.status, refused.json.error.reason }, { 409, "last_admin" })
	t.allowed(t.connect({ bearer = "aek_root" }))

	local other = ask("POST", "/api/v2/keys", { name = "other", admin = true, expires_in = "1h" }).json.meta
	t.equal(ask("DELETE", "/api/v2/keys/" .. root.id).status, 200)
	t.denied(t.connect({ bearer = "aek_root" }), "bad_key")
	t.equal(ask("DELETE", "/api/v2/keys/" .. other.id).json.error.reason, "last_admin")
end)

t.case("a key that has expired administers nothing", function()
	ask("POST", "/api/v2/keys", { name = "other", admin = true, expires_in = "1h" })
	t.clock.advance("2h")
	local root = ask("GET", "/api/v2/keys").json.keys[2]
	t.equal(ask("DELETE", "/api/v2/keys/" .. root.id).json.error.reason, "last_admin")
end)
