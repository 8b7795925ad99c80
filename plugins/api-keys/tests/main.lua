local t = aether.test
local sha256 = aether.crypto.sha256

t.config({ keys = { { name = "shop", sha256 = sha256("aek_shop"), publish = { "order.*" }, history = { "order.*" } } } })
t.secret("admin_key", "aek_admin")

t.case("a key may what its entry says, and no more", function()
	local shop = t.allowed(t.connect({ bearer = "aek_shop", transport = "http" }))
	t.equal(shop.user, "shop")
	t.allowed(t.publish(shop, "order.1", { paid = true }))
	t.allowed(t.history(shop, "order.1"))
	t.denied(t.subscribe(shop, "order.1"), "not_allowed")
	t.denied(t.publish(shop, "chat.1", "x"), "not_allowed")
end)

t.case("the hub's own key may everything", function()
	local admin = t.allowed(t.connect({ bearer = "aek_admin" }))
	t.equal(admin.grants.admin, true)
	t.allowed(t.publish(admin, "anything", "x"))
end)

t.case("another key opens nothing", function()
	t.denied(t.connect({ bearer = "aek_guessed" }), "bad_key")
end)

t.case("a token is left to the next plugin", function()
	t.denied(t.connect({ bearer = "a.b.c" }), "unauthorized")
end)

t.case("an entry that can never fit does not load", function()
	local function wrong(key, why)
		t.config({ keys = { key } })
		local ok, said = t.load()
		t.equal(ok, false)
		t.matches(said, why)
	end
	wrong({ name = "shop", sha256 = "aek_shop" }, "64 lower%-case hex digits")
	wrong({ name = "shop", sha256 = sha256("x"), publish = { "$user.*" } }, "belong to plugins")
	wrong({ name = "shop", sha256 = sha256("x"), history = { "order.*", "order..x" } }, 'keys%[1%]%.history%[2%]: shop: "order%.%.x" can match nothing')
	wrong({ name = "shop" }, "sha256 is required")
end)

t.case("two entries with the same key do not load", function()
	local key = { name = "shop", sha256 = sha256("x") }
	t.config({ keys = { key, key } })
	local ok, why = t.load()
	t.equal(ok, false)
	t.matches(why, "another key has the same")
end)

local admin = { user = "admin", grants = { admin = true } }

local function ask(method, path, body)
	return t.route(method, path, { who = admin, json = body })
end

local function make(key)
	local made = ask("POST", "/api/v2/keys", key)
	t.equal(made.status, 200)
	return made.json.key, made.json.meta
end

t.case("a key is made over HTTP, and shown once", function()
	local secret, meta = make({ name = "till", publish = { "sale.*" }, subscribe = { "price.*" }, expires_in = "1h30m" })
	t.matches(secret, "^aek_[%w_-]+$")
	t.equal(#secret, 47)
	t.equal(meta.key_prefix, string.sub(secret, 1, 8))
	t.equal(meta.created_at, "2026-01-01T00:00:00.000Z")
	t.equal(meta.expires_at, "2026-01-01T01:30:00.000Z")
	t.equal(ask("GET", "/api/v2/keys/" .. meta.id).json.meta, meta)
	t.equal(ask("GET", "/api/v2/keys").json.keys[1], meta)

	local till = t.allowed(t.connect({ bearer = secret }))
	t.equal({ till.user, till.attrs.key }, { "till", meta.id })
	t.equal(till.grants, { publish = { "sale.*" }, subscribe = { "price.*" }, history = { "price.*" }, admin = false })
	t.clock.advance("1h30m")
	t.denied(t.connect({ bearer = secret }), "bad_key")
end)

t.case("a pattern that grants nothing is refused, and why", function()
	for pattern, why in
		{
			["order..x"] = '"order..x" can match nothing: no channel can have such a name',
			["a b"] = '"a b" can match nothing',
			[string.rep("x", 129)] = "can match nothing",
			["ord*"] = '"ord*" is no channel pattern',
			["$user.*"] = "names that begin with $ belong to plugins",
		}
	do
		local answer = ask("POST", "/api/v2/keys", { name = "till", publish = { "sale.*", pattern } })
		t.equal({ answer.status, answer.json.error.code }, { 400, 40003 })
		local said = answer.json.error.message
		if not string.find(said, "publish: item 2: ", 1, true) or not string.find(said, why, 1, true) then t.fail(said) end
	end
	t.equal(#ask("GET", "/api/v2/keys").json.keys, 2)
end)

t.case("only administrators make keys", function()
	t.denied(t.route("POST", "/api/v2/keys", { json = { name = "x" } }))
end)

t.case("a rotated key has a new secret and is the same key", function()
	local before, meta = make({ name = "till", publish = { "sale.*" } })
	local rotated = ask("POST", `/api/v2/keys/{meta.id}/rotate`).json
	t.equal(rotated.meta.id, meta.id)
	t.denied(t.connect({ bearer = before }), "bad_key")
	t.equal(t.allowed(t.connect({ bearer = rotated.key })).grants.publish, { "sale.*" })
end)

t.case("a revoked key opens nothing, is listed for a while, and frees its name then", function()
	t.config({ keep_revoked = "1d" })
	local secret, meta = make({ name = "till" })
	t.allowed(t.connect({ bearer = secret }))
	t.equal(ask("DELETE", "/api/v2/keys/" .. meta.id).json, { ok = true })
	t.denied(t.connect({ bearer = secret }), "bad_key")
	t.equal(ask("GET", "/api/v2/keys/" .. meta.id).json.meta.revoked_at, "2026-01-01T00:00:00.000Z")
	t.equal(ask("POST", "/api/v2/keys", { name = "till" }).json.error.code, 40901)
	t.clock.advance("25h")
	t.equal(ask("GET", "/api/v2/keys/" .. meta.id).status, 404)
	make({ name = "till" })
end)

t.case("there are only so many keys", function()
	t.config({ max_keys = 1 })
	make({ name = "one" })
	t.equal(ask("POST", "/api/v2/keys", { name = "two" }).json.error.reason, "too_many_keys")
end)

t.case("what the first Aether said of a key holds", function()
	local spell = require("../lib/spell")
	local bytes = ""
	for byte = 0, 31 do bytes ..= string.char(byte) end
	local secret = spell(bytes)
	t.equal(secret, "aek_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
	t.equal(sha256(secret), "a367240204f98aaff0e54a180e09e2f1684df29d84649a4e4283ab413dc39285")
end)
