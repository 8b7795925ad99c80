-- Other services publish by signed requests: the path says which webhook it is, its template which channel.

local crypto, json = aether.crypto, aether.json
local book, template = require("./lib/book"), require("./lib/template")
local keys = require("@api-keys")
local seen = aether.shared("webhooks")

local LONGEST = 128
local LONGEST_WINDOW = 3600

local function fail(status, code, reason, message)
	return { status = status, json = { ok = false, error = { code = code, reason = reason, message = message } } }
end

local function time(ms)
	return os.date("!%Y-%m-%dT%H:%M:%S", ms // 1000) .. string.format(".%03dZ", ms % 1000)
end

local function meta(hook)
	return {
		id = hook.id,
		name = hook.name,
		channel_template = hook.channel_template,
		key_id = hook.key_id or json.null,
		timestamp_window = hook.timestamp_window,
		active = hook.active,
		url = "/api/v2/webhooks/" .. hook.token,
		created_at = time(hook.created),
		updated_at = time(hook.updated),
	}
end

-- What a new webhook is, from the body of a request; or nil and what to answer.
local function read_webhook(req)
	local body = req:json()
	if type(body) ~= "table" then return nil, fail(400, 40003, "bad_json", "invalid json") end
	for _, field in { "name", "channel_template" } do
		local value = body[field]
		if value == nil or value == "" then return nil, fail(400, 40002, "missing_field", `{field} is required`) end
		if type(value) ~= "string" or #value > LONGEST then
			return nil, fail(400, 40003, "bad_json", `invalid json: {field} is a text of at most {LONGEST} bytes`)
		end
	end
	local window = body.timestamp_window
	if window ~= nil and (type(window) ~= "number" or window < 1 or window > LONGEST_WINDOW) then
		return nil, fail(400, 40003, "bad_json", `invalid json: timestamp_window is 1 to {LONGEST_WINDOW} seconds`)
	end
	local key_id = body.key_id
	if key_id ~= nil and (type(key_id) ~= "string" or not keys.exists(key_id)) then return nil, fail(404, 40401, "key_not_found", "key not found") end
	return { name = body.name, channel_template = body.channel_template, key_id = key_id, timestamp_window = window }
end

-- Whether whoever sent this knows the secret, and has not sent it before. With a window the time is signed too.
local function is_genuine(hook, req)
	local given = string.match(req:header("x-signature-256") or "", "^%s*(.-)%s*$")
	given = string.lower(string.match(given, "^sha256=(.*)$") or given)
	local signed = req:text()
	if hook.timestamp_window then
		local sent = req:header("x-signature-timestamp") or ""
		local seconds = string.match(sent, "^%d+$") and tonumber(sent)
		if not seconds or math.abs(aether.now_ms() / 1000 - seconds) > hook.timestamp_window then return false end
		signed = sent .. "." .. signed
	end
	if not crypto.equal(crypto.hmac_sha256(hook.secret, signed), given) then return false end
	if not hook.timestamp_window then return true end
	return seen:set({ hook.id, given }, true, { if_absent = true, ttl = 2 * hook.timestamp_window })
end

-- Publishes what came with the rights of the webhook's key: its answer, and for the record the channel, the seq and what went wrong.
local function deliver(hook, req)
	local body = json.decode(req:text(), { null = true })
	local channel = template.fill(hook.channel_template, body, not hook.key_id)
	if not channel then return fail(400, 40005, "bad_template", "failed to resolve channel") end
	if hook.key_id and not keys.may_publish(hook.key_id, channel) then
		return fail(403, 40301, "not_allowed", `unauthorized channel: {channel}: the webhook's key may not publish there`), channel
	end
	local receipt, code, why, wait = aether.publish_now(channel, req:buffer(), { media = if body == nil then "text" else "json" })
	if receipt then
		local stamp = os.date("!%Y-%m-%dT%H:%M:%SZ", receipt.timestamp // 1000)
		return { json = { ok = true, seq_id = receipt.seq_id, channel = channel, timestamp = stamp } }, channel, receipt.seq_id
	end
	if code == "bad_channel" then return fail(400, 40005, "bad_template", "failed to resolve channel") end
	if code == "store" or code == "busy" or code == "stopping" then
		local later = fail(503, 50301, code, why)
		if wait then later.headers = { ["retry-after"] = tostring(math.ceil(wait / 1000)) } end
		return later, channel
	end
	return fail(403, 40301, code, why), channel
end

aether.http.route("POST", "/api/v2/webhooks/{token}", { auth = "none" }, function(req)
	local began = os.clock()
	local hook = book.of_token(req.params.token)
	if not hook then return fail(404, 40402, "webhook_not_found", "webhook not found") end
	if not hook.active then return fail(404, 40402, "webhook_inactive", "webhook is inactive") end
	if not is_genuine(hook, req) then return fail(401, 40103, "bad_signature", "invalid signature") end

	local answer, channel, seq = deliver(hook, req)
	-- From here on it is the webhook's own sender, so nobody else can push the true ones out of the record.
	book.record(hook.id, {
		status = if seq then "success" else "failed",
		error_message = if seq then nil else answer.json.error.message,
		duration_ms = math.floor((os.clock() - began) * 1000 + 0.5),
		seq_id = seq,
		channel = channel,
	})
	return answer
end)

-- Answers about the one webhook that the path names.
local function about_webhook(answer)
	return function(req)
		local hook = book.find(req.params.id)
		if not hook then return fail(404, 40402, "webhook_not_found", "webhook not found") end
		return answer(hook, req) or fail(404, 40402, "webhook_not_found", "webhook not found")
	end
end

aether.http.route("POST", "/api/v2/webhooks", function(req)
	local wanted, no = read_webhook(req)
	if not wanted then return no end
	local hook, why = book.make(wanted)
	if why == "name" then return fail(409, 40902, "name_taken", "webhook name already exists") end
	if why == "full" then return fail(409, 40903, "too_many_webhooks", "there are too many webhooks (max_webhooks)") end
	return { json = { ok = true, webhook = meta(hook), secret = hook.secret } }
end)

aether.http.route("GET", "/api/v2/webhooks", function()
	local list = json.array({})
	for _, hook in book.all() do
		table.insert(list, meta(hook))
	end
	return { json = { ok = true, webhooks = list } }
end)

aether.http.route("GET", "/api/v2/webhooks/{id}", about_webhook(function(hook)
	return { json = { ok = true, webhook = meta(hook) } }
end))

aether.http.route("PATCH", "/api/v2/webhooks/{id}", about_webhook(function(hook, req)
	local body = req:json()
	if type(body) ~= "table" or type(body.active) ~= "boolean" then
		return fail(400, 40003, "bad_json", "invalid json: active is true or false")
	end
	local changed = book.change(hook.id, { active = body.active })
	return changed and { json = { ok = true, webhook = meta(changed) } }
end))

aether.http.route("DELETE", "/api/v2/webhooks/{id}", about_webhook(function(hook)
	book.remove(hook)
	return { json = { ok = true } }
end))

aether.http.route("POST", "/api/v2/webhooks/{id}/rotate-secret", about_webhook(function(hook)
	local changed = book.rotate(hook.id)
	return changed and { json = { ok = true, webhook = meta(changed), secret = changed.secret } }
end))

aether.http.route("GET", "/api/v2/webhooks/{id}/deliveries", about_webhook(function(hook)
	local list = book.deliveries(hook.id)
	for at, delivery in list do
		delivery = table.clone(delivery)
		delivery.at, delivery.webhook_id = time(delivery.at), hook.id
		list[at] = delivery
	end
	return { json = { ok = true, deliveries = list } }
end))
