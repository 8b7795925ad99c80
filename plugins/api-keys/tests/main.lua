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
	wrong({ name = "shop" }, "sha256 is required")
end)

t.case("two entries with the same key do not load", function()
	local key = { name = "shop", sha256 = sha256("x") }
	t.config({ keys = { key, key } })
	local ok, why = t.load()
	t.equal(ok, false)
	t.matches(why, "another key has the same")
end)
