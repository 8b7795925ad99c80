local t = aether.test

local function rules(rows)
	t.config({ rules = rows })
end

local staff = { user = "ann", attrs = { role = "staff" } }
local shop = { user = "till", attrs = { roles = { "shop", "print" } } }
local nobody = nil

t.case("who has the role may, and nobody else", function()
	rules({ ["order.*"] = { subscribe = { "staff" }, publish = { "shop" } } })
	t.allowed(t.subscribe(staff, "order.1.x"))
	t.allowed(t.history(staff, "order.1"))
	t.allowed(t.publish(shop, "order.1", 1))
	t.denied(t.subscribe(shop, "order.1"), "not_allowed")
	t.denied(t.publish(staff, "order.1", 1), "not_allowed")
	t.denied(t.subscribe(nobody, "order.1"), "not_allowed")
	t.denied(t.subscribe(staff, "order"), "not_allowed")
end)

t.case("everybody, whoever has a user, and one user", function()
	rules({
		news = { subscribe = { "*" } },
		forum = { subscribe = { "user:*" } },
		desk = { subscribe = { "user:ann" } },
	})
	t.allowed(t.subscribe(nobody, "news"))
	t.allowed(t.subscribe("bob", "forum"))
	t.denied(t.subscribe(nobody, "forum"))
	t.allowed(t.subscribe("ann", "desk"))
	t.denied(t.subscribe("bob", "desk"))
	-- A role that is called like a user opens nothing that is the user's.
	t.denied(t.subscribe({ user = "bob", attrs = { role = "user:ann" } }, "desk"))
end)

t.case("a channel of one's own", function()
	rules({ ["user.{user}.inbox"] = { subscribe = { "user:{user}", "staff" } } })
	t.allowed(t.subscribe("bob", "user.bob.inbox"))
	t.denied(t.subscribe("bob", "user.ann.inbox"))
	t.allowed(t.subscribe(staff, "user.bob.inbox"))
	t.denied(t.subscribe(nobody, "user.nil.inbox"))
end)

t.case("history may be for others than those who listen", function()
	rules({ log = { subscribe = { "*" }, history = { "staff" } } })
	t.allowed(t.history(staff, "log"))
	t.denied(t.history(shop, "log"))
end)

t.case("rules add up, unless one says only", function()
	local granted = { user = "key", grants = { subscribe = aether.patterns({ "*" }) } }
	rules({ ["a.*"] = { subscribe = { "staff" } } })
	t.allowed(t.subscribe(granted, "a.1"))
	rules({ ["a.*"] = { subscribe = { "staff" }, only = true } })
	t.denied(t.subscribe(granted, "a.1"), "denied", "a.*: subscribe is for staff")
	t.denied(t.publish(granted, "a.1", 1), "denied", "is for nobody")
	t.allowed(t.subscribe(staff, "a.1"))
end)

t.case("a table that is wrong does not load, and says where", function()
	local function wrong(rows, why)
		rules(rows)
		local ok, said = t.load()
		t.equal(ok, false)
		t.matches(said, why)
	end
	wrong({ ["order.*"] = { subscribe = "staff" } }, "rules%.order%.%*%.subscribe: expected a list")
	wrong({ ["order.*"] = { subscrbe = { "staff" } } }, "did you mean subscribe%?")
	wrong({ ["a.*"] = { subscribe = { "user:{user}" } } }, "a%.%*: subscribe: user:{user}: there is no {user} in the pattern")
	wrong({ ["ro*om"] = { subscribe = { "*" } } }, 'pattern "ro%*om"')
	wrong({ a = { subscribe = { "" } } }, "expected a role, got an empty text")
end)
