-- What a back end did by calling Publish and PublishToAll in its own process, over HTTP and for other plugins.

local cfg = aether.config
local topics, words = require("./topics"), require("./words")

local function plain(status, text, wait)
	local headers = wait and { ["retry-after"] = tostring(math.ceil(wait / 1000)) }
	return { status = status, headers = headers, body = text }
end

-- What is asked, field by field: of a form, or else of the query. Or nil and what is wrong.
local function asked(req)
	local posted, kind = {}, req:header("content-type") or ""
	if string.match(kind, "^application/x%-www%-form%-urlencoded") then
		local fields, why = aether.form.decode(req:text())
		if not fields then return nil, why end
		posted = fields
	elseif req.size > 0 then
		return nil, "its body is no application/x-www-form-urlencoded"
	end
	return function(name) return posted[name] or req.query[name] or "" end
end

local STATUS = { busy = 429, store = 503, stopping = 503 }

local function send(to_all)
	return function(req)
		if cfg.answers == "example" and req.method ~= "POST" then return plain(405, "Method not allowed\n") end
		local field, wrong = asked(req)
		if not field then return plain(400, `Bad form: {wrong}\n`) end
		local topic = if to_all then "global" elseif field("topic") == "" then "default" else field("topic")
		local event = if field("event") == "" then "message" else field("event")
		if cfg.answers == "example" and field("message") == "" then return plain(400, "Message cannot be empty\n") end
		local lacking = words.lacks(event)
		if lacking then return plain(400, `Event must be {lacking}\n`) end
		local channel, why = topics.global, nil
		if not to_all then channel, why = topics.channel(topic) end
		if not channel then return plain(400, `Bad topic: {why}\n`) end
		if not cfg.open and not req:may("publish", channel) then return plain(403, `Not allowed to publish to {channel}\n`) end
		local receipt, code, reason, wait = aether.publish_now(channel, field("message"), words.options(event))
		if not receipt then return plain(STATUS[code] or 403, `Message not sent: {reason} ({code})\n`, wait) end
		return plain(200, if cfg.answers == "example" then `Message sent to topic {topic}` else "Message sent")
	end
end

local options = { auth = if cfg.open then "none" else "connect", listen = if cfg.listen ~= "" then cfg.listen else nil }
for _, method in { "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS" } do
	aether.http.route(method, cfg.send, options, send(false))
	aether.http.route(method, cfg.send .. "/all", options, send(true))
end

local function publish(channel, event, data)
	local lacking = words.lacks(event)
	if lacking then return nil, `an event is {lacking}` end
	return aether.publish(channel, data, words.options(event))
end

-- For other plugins and for scripts: require("@pushlet").
aether.export({
	publish = function(topic, event, data)
		local channel, why = topics.channel(topic)
		if not channel then return nil, why end
		return publish(channel, event, data)
	end,
	publish_to_all = function(event, data) return publish(topics.global, event, data) end,
})
