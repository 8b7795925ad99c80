-- What a back end did by calling Publish and PublishToAll in its own process, over HTTP and for other plugins.

local cfg = aether.config
local topics, words = require("./topics"), require("./words")

local function plain(status, text) return { status = status, body = text } end

-- The values of a form.
local function form(body)
	local fields = {}
	for pair in string.gmatch(body, "[^&]+") do
		local name, value = string.match(pair, "^([^=]*)=?(.*)$")
		local function text(part)
			return (string.gsub(string.gsub(part, "+", " "), "%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
		end
		name = text(name)
		fields[name] = fields[name] or text(value)
	end
	return fields
end

local function asked(req)
	local kind = req:header("content-type") or ""
	local posted = if string.match(kind, "^application/x%-www%-form%-urlencoded") then form(req:text()) else {}
	return function(name) return posted[name] or req.query[name] or "" end
end

local STATUS = { busy = 429, store = 503, stopping = 503 }

local function send(to_all)
	return function(req)
		if cfg.answers == "example" and req.method ~= "POST" then return plain(405, "Method not allowed\n") end
		local field = asked(req)
		local topic = if to_all then "global" elseif field("topic") == "" then "default" else field("topic")
		local event = if field("event") == "" then "message" else field("event")
		if cfg.answers == "example" and field("message") == "" then return plain(400, "Message cannot be empty\n") end
		if string.find(event, "[\r\n%z]") then return plain(400, "Event must be one line\n") end
		local channel, why = topics.global, nil
		if not to_all then channel, why = topics.channel(topic) end
		if not channel then return plain(400, `Bad topic: {why}\n`) end
		if not cfg.open and not req:may("publish", channel) then return plain(403, `Not allowed to publish to {channel}\n`) end
		local receipt, code, reason = aether.publish_now(channel, field("message"), words.options(event))
		if not receipt then return plain(STATUS[code] or 403, `Message not sent: {reason} ({code})\n`) end
		return plain(200, if cfg.answers == "example" then `Message sent to topic {topic}` else "Message sent")
	end
end

for _, method in { "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS" } do
	local options = { auth = if cfg.open then "none" else "connect" }
	aether.http.route(method, cfg.send, options, send(false))
	aether.http.route(method, cfg.send .. "/all", options, send(true))
end

-- For other plugins and for scripts: require("@pushlet").
aether.export({
	publish = function(topic, event, data)
		local channel, why = topics.channel(topic)
		if not channel then return nil, why end
		return aether.publish(channel, data, words.options(event))
	end,
	publish_to_all = function(event, data) return aether.publish(topics.global, data, words.options(event)) end,
})
