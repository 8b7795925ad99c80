-- All keys: those of the settings, and those made over HTTP, which lie in the store. Of each only the SHA-256 is known.
--
-- A key is found by its hash and counts only if its own record has that hash. So one write of the record is all that rotating and
-- revoking take: there is no moment at which two secrets open the same door, or a revoked one does.

local cfg, crypto = aether.config, aether.crypto
local store = aether.kv("keys")
local spell = require("./spell")

local ring = {}

-- id -> key, and hash -> id, of those that do not lie in the store.
local fixed, fixed_ids = {}, {}

-- What is wrong with a pattern that a key may not have.
function ring.fault(text)
	if type(text) ~= "string" then return "a pattern is a text" end
	local shown = `"{string.sub(text, 1, 64)}"`
	if string.sub(text, 1, 1) == "$" then return `{shown}: names that begin with $ belong to plugins` end
	local pattern = aether.patterns({ text })
	if tostring(pattern) == "" then return `{shown} is no channel pattern: a wildcard stands for a whole segment` end
	if not pattern:example() then return `{shown} can match nothing: no channel can have such a name` end
	return nil
end

-- A key of the settings is known by the hash that stands there, whatever is done to it later.
local function id_of(hash)
	local hex = crypto.sha256("api-keys/" .. hash)
	return string.format("%s-%s-5%s-8%s-%s", hex:sub(1, 8), hex:sub(9, 12), hex:sub(14, 16), hex:sub(18, 20), hex:sub(21, 32))
end

local function fix(key)
	key.id, key.prefix, key.created = id_of(key.hash), key.prefix or "", 0
	fixed[key.id], fixed_ids[key.hash] = key, key.id
end

for at, key in cfg.keys do
	if not string.match(key.sha256, "^%x+$") or #key.sha256 ~= 64 or key.sha256 ~= string.lower(key.sha256) then
		error(`keys[{at}]: {key.name}: sha256 is 64 lower-case hex digits`)
	end
	if fixed_ids[key.sha256] then error(`keys[{at}]: {key.name}: another key has the same sha256`) end
	local own = { name = key.name, hash = key.sha256, admin = key.admin, of_settings = true }
	for _, verb in { "publish", "subscribe", "history" } do
		own[verb] = aether.json.array({})
		for n, pattern in key[verb] do
			own[verb][n] = tostring(pattern)
			local fault = ring.fault(own[verb][n])
			if fault then error(`keys[{at}].{verb}[{n}]: {key.name}: {fault}`) end
		end
	end
	fix(own)
end

-- The key that the hub made for its operator.
local hub_key = aether.secret("admin_key")
if hub_key then
	local all = { "*" }
	fix({ name = "admin", hash = crypto.sha256(hub_key), publish = all, subscribe = all, history = all, admin = true, of_hub = true })
end

function ring.find(id)
	if #id > 64 then return nil end
	local set, kept = fixed[id], store:get("id", id)
	if not kept then return set end
	if not kept.of_settings then return kept end
	if not set then return nil end -- it was taken out of the settings, and with it whatever became of it
	local key = table.clone(set)
	key.hash, key.prefix, key.revoked = kept.hash, kept.prefix, kept.revoked
	return key
end

function ring.is_good(key)
	return not key.revoked and (not key.expires or aether.now_ms() < key.expires)
end

-- The key that a secret opens, good or not.
function ring.opened_by(secret)
	local hash = crypto.sha256(secret)
	local id = store:get("hash", hash) or fixed_ids[hash]
	local key = id and ring.find(id)
	if key and key.hash == hash then return key end
	return nil
end

local function stored()
	local list = {}
	for _, row in store:scan("id", { limit = 1000 }) do
		if not row.value.of_settings then table.insert(list, row.value) end
	end
	return list
end

-- The newest first.
function ring.all()
	local list = stored()
	for id in fixed do
		table.insert(list, ring.find(id))
	end
	table.sort(list, function(a, b)
		if a.created ~= b.created then return a.created > b.created end
		return a.name < b.name
	end)
	return list
end

local function has_name(name)
	for _, key in fixed do
		if key.name == name then return true end
	end
	return false
end

-- Gives a key a new secret, which is known to nobody but whoever gets it now.
local function arm(key)
	local secret = spell(crypto.random(32))
	key.hash, key.prefix = crypto.sha256(secret), string.sub(secret, 1, 8)
	store:set({ "hash", key.hash }, key.id)
	return secret
end

-- From here on nobody gets by on what was true of the key before; what has been said is on disk.
local function settle(key)
	aether.forget({ user = key.name })
	store:sync()
end

-- Whoever is connected came with a secret that opens nothing any more.
local function part(key)
	aether.kick({ user = key.name, why = "the key was changed or revoked" })
end

-- Makes a key of `key`; its secret, or nil and why not.
function ring.make(key)
	if #stored() >= cfg.max_keys then return nil, "full" end
	key.id, key.created = crypto.uuid(), aether.now_ms()
	local holder = store:get("name", key.name)
	if has_name(key.name) or (holder and ring.find(holder)) then return nil, "name" end
	if not store:cas({ "name", key.name }, holder, key.id) then return nil, "name" end
	local secret = arm(key)
	store:set({ "id", key.id }, key)
	settle(key)
	return secret
end

local function change(key, options)
	local record = key
	if key.of_settings then
		record = { of_settings = true, hash = key.hash, prefix = key.prefix, revoked = key.revoked }
	end
	store:set({ "id", key.id }, record, options)
end

function ring.rotate(key)
	local before = key.hash
	key = table.clone(key)
	local secret = arm(key)
	change(key)
	store:delete("hash", before)
	settle(key)
	part(key)
	return key, secret
end

function ring.revoke(key)
	key = table.clone(key)
	key.revoked = aether.now_ms()
	-- The record stays for a while, so that one can see who it was; a key of the settings stays as long as they name it.
	local options = if key.of_settings then nil else { ttl = cfg.keep_revoked }
	change(key, options)
	if options then store:set({ "name", key.name }, key.id, options) end
	store:delete("hash", key.hash)
	settle(key)
	part(key)
end

-- Whether somebody could still administer the hub without this key.
function ring.leaves_an_admin(without)
	for _, key in ring.all() do
		if key.admin and key.id ~= without.id and ring.is_good(key) then return true end
	end
	return false
end

return ring
