-- Back ends show a key. Only the SHA-256 of each is kept, so neither the configuration nor a leak of it opens anything.

local allow, deny, crypto = aether.allow, aether.deny, aether.crypto

local function verdict(key)
	return allow({
		user = key.name,
		ttl = aether.config.remember,
		grants = {
			publish = aether.patterns(key.publish),
			subscribe = aether.patterns(key.subscribe),
			history = aether.patterns(key.history),
			admin = key.admin,
		},
	})
end

-- hash -> its verdict, made once.
local known = {}

for _, key in aether.config.keys do
	if not string.match(key.sha256, "^%x+$") or #key.sha256 ~= 64 or key.sha256 ~= string.lower(key.sha256) then
		error(`key {key.name}: sha256 is 64 lower-case hex digits`)
	end
	for _, list in { key.publish, key.subscribe, key.history } do
		for _, pattern in list do
			if string.sub(tostring(pattern), 1, 1) == "$" then
				error(`key {key.name}: {tostring(pattern)}: names that begin with $ belong to plugins`)
			end
		end
	end
	if known[key.sha256] then error(`key {key.name}: another key has the same sha256`) end
	known[key.sha256] = verdict(key)
end

-- The key that the hub made for its operator.
local admin_key = aether.secret("admin_key")
if admin_key then
	local all = { "*" }
	known[crypto.sha256(admin_key)] =
		verdict({ name = "admin", publish = all, subscribe = all, history = all, admin = true })
end

local function is_token(raw)
	local _, dots = string.gsub(raw, "%.", "")
	return dots == 2
end

aether.on.connect(function(req)
	local raw = req:bearer()
	if not raw or is_token(raw) then return nil end -- a token: let jwt-auth look

	-- The hash is looked up, not the key: how long that takes tells nothing about a key that one does not have.
	local answer = known[crypto.sha256(raw)]
	if answer then return answer end
	return deny("bad_key", "invalid or missing api key")
end)
