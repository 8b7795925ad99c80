-- The webhooks that there are, and their latest deliveries.

local cfg, crypto = aether.config, aether.crypto
local store = aether.kv("webhooks")

local book = {}

function book.find(id)
	return if #id <= 64 then store:get("id", id) else nil
end

-- A token is looked up by its hash: how long that takes tells nothing about one that one does not have.
function book.of_token(token)
	local id = store:get("token", crypto.sha256(token))
	local hook = id and book.find(id)
	return if hook and hook.token == token then hook else nil
end

-- The newest first.
function book.all()
	local list = {}
	for _, row in store:scan("id", { limit = 1000 }) do
		table.insert(list, row.value)
	end
	table.sort(list, function(a, b)
		if a.created ~= b.created then return a.created > b.created end
		return a.name < b.name
	end)
	return list
end

local function fresh_secret()
	return crypto.hex.encode(crypto.random(32))
end

-- Makes a webhook of `hook`; it, or nil and why not.
function book.make(hook)
	if #book.all() >= cfg.max_webhooks then return nil, "full" end
	hook.id, hook.token, hook.secret = crypto.uuid(), fresh_secret(), fresh_secret()
	hook.active, hook.created, hook.updated = true, aether.now_ms(), aether.now_ms()
	local holder = store:get("name", hook.name)
	if holder and book.find(holder) then return nil, "name" end
	if not store:cas({ "name", hook.name }, holder, hook.id) then return nil, "name" end
	store:set({ "token", crypto.sha256(hook.token) }, hook.id)
	store:set({ "id", hook.id }, hook)
	store:sync()
	return hook
end

-- The webhook with `changes`; nil if it has gone meanwhile.
function book.change(id, changes)
	local hook = store:update({ "id", id }, function(hook)
		if not hook then return nil end
		for key, value in changes do
			hook[key] = value
		end
		hook.updated = aether.now_ms()
		return hook
	end)
	store:sync()
	return hook
end

function book.rotate(id)
	return book.change(id, { secret = fresh_secret() })
end

function book.remove(hook)
	store:delete("id", hook.id)
	store:delete("token", crypto.sha256(hook.token))
	store:delete("name", hook.name)
	for place = 0, cfg.deliveries - 1 do
		store:delete("delivery", hook.id, place)
	end
	store:delete("count", hook.id)
	store:sync()
end

-- The oldest makes room.
function book.record(id, delivery)
	local number = store:incr({ "count", id })
	delivery.number, delivery.at = number, aether.now_ms()
	store:set({ "delivery", id, number % cfg.deliveries }, delivery)
end

-- The latest first.
function book.deliveries(id)
	local list = aether.json.array({})
	for _, row in store:scan({ "delivery", id }, { limit = 1000 }) do
		table.insert(list, row.value)
	end
	table.sort(list, function(a, b) return a.number > b.number end)
	return list
end

return book
