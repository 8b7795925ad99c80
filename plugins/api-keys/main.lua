-- Back ends show a key. Keys stand in the settings or are made over HTTP; `lib/ring.lua` keeps them.

local cfg, allow, deny = aether.config, aether.allow, aether.deny
local ring, web = require("./lib/ring"), require("./lib/web")
local fail = web.fail

local MOST_PATTERNS = 1000
local LONGEST_NAME = 128
local LONGEST_LIFE_MS = 100 * 365 * 86400 * 1000

local function verdict(key)
	local readable = aether.patterns(key.subscribe)
	return allow({
		user = key.name,
		expires = key.expires and key.expires / 1000,
		ttl = cfg.remember,
		attrs = { key = key.id },
		grants = {
			publish = aether.patterns(key.publish),
			subscribe = readable,
			history = if key.history then aether.patterns(key.history) else readable,
			admin = key.admin == true,
		},
	})
end

local function is_token(raw)
	local _, dots = string.gsub(raw, "%.", "")
	return dots == 2
end

-- What a new key may be, from the body of a request; or nil and what to answer.
local function read_key(req)
	local body = req:json()
	if type(body) ~= "table" then return nil, fail(400, 40003, "bad_json", "invalid json") end
	local function wrong(what) return nil, fail(400, 40003, "bad_json", `invalid json: {what}`) end

	local key = { name = body.name, admin = body.admin == true }
	if key.name == nil or key.name == "" then return nil, fail(400, 40002, "missing_field", "name is required") end
	if type(key.name) ~= "string" or #key.name > LONGEST_NAME then return wrong(`name is a text of at most {LONGEST_NAME} bytes`) end
	if body.admin ~= nil and type(body.admin) ~= "boolean" then return wrong("admin is true or false") end

	for _, verb in { "publish", "subscribe", "history" } do
		local list = body[verb]
		if list == nil then continue end
		if type(list) ~= "table" or #list > MOST_PATTERNS then return wrong(`{verb} is a list of patterns`) end
		for at, pattern in list do
			local fault = ring.fault(pattern)
			if fault then return wrong(`{verb}: item {at}: {fault}`) end
		end
		key[verb] = list
	end

	if body.expires_in ~= nil and body.expires_in ~= "" then
		local life = type(body.expires_in) == "string" and web.duration_ms(body.expires_in)
		if not life or life > LONGEST_LIFE_MS then return nil, fail(400, 40003, "bad_parameter", "invalid expires_in format") end
		key.expires = aether.now_ms() + life
	end
	return key
end

-- Answers about the one key that the path names.
local function about_key(answer)
	return function(req)
		local key = ring.find(req.params.id)
		if not key then return fail(404, 40401, "key_not_found", "key not found") end
		return answer(key)
	end
end

aether.on.connect(function(req)
	local raw = req:bearer()
	if not raw or is_token(raw) then return nil end -- a token: let jwt-auth look

	-- The hash is looked up, not the key: how long that takes tells nothing about a key that one does not have.
	local key = ring.opened_by(raw)
	if key and ring.is_good(key) then return verdict(key) end
	return deny("bad_key", "invalid or missing api key")
end)

-- For plugins that act with a key's rights, as `webhooks` does.
aether.export({
	exists = function(id)
		return ring.find(id) ~= nil
	end,
	may_publish = function(id, channel)
		local key = ring.find(id)
		return key ~= nil and ring.is_good(key) and aether.patterns(key.publish):matches(channel)
	end,
})

aether.http.route("POST", "/api/v2/keys", function(req)
	local key, no = read_key(req)
	if not key then return no end
	local secret, why = ring.make(key)
	if why == "name" then return fail(409, 40901, "name_taken", "key name already exists") end
	if why == "full" then return fail(409, 40903, "too_many_keys", `there are {cfg.max_keys} keys already (max_keys)`) end
	return { json = { ok = true, key = secret, meta = web.meta(key) } }
end)

aether.http.route("GET", "/api/v2/keys", function()
	local list = aether.json.array({})
	for _, key in ring.all() do
		table.insert(list, web.meta(key))
	end
	return { json = { ok = true, keys = list } }
end)

aether.http.route("GET", "/api/v2/keys/{id}", about_key(function(key)
	return { json = { ok = true, meta = web.meta(key) } }
end))

aether.http.route("DELETE", "/api/v2/keys/{id}", about_key(function(key)
	if key.of_hub then return fail(409, 40903, "hub_key", "the hub's own key is changed with the secret admin_key") end
	if key.admin and not ring.leaves_an_admin(key) then
		return fail(409, 40903, "last_admin", "the last admin key cannot be revoked")
	end
	ring.revoke(key)
	return { json = { ok = true } }
end))

aether.http.route("POST", "/api/v2/keys/{id}/rotate", about_key(function(key)
	if key.of_hub then return fail(409, 40903, "hub_key", "the hub's own key is changed with the secret admin_key") end
	if not ring.is_good(key) then return fail(409, 40903, "key_ended", "the key is revoked or has expired") end
	local fresh, secret = ring.rotate(key)
	return { json = { ok = true, key = secret, meta = web.meta(fresh) } }
end))
