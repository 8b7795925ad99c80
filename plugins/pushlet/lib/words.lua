-- What Pushlet says, byte for byte.

local json = aether.json
local topics = require("./topics")
local words = {}

-- Names of events that the hub keeps for itself travel beside the message, and so do those that are no name to it.
local RESERVED = {}
for _, name in { "gap", "live", "subscribed", "unsubscribed", "bye", "error", "open", "join", "leave", "heartbeat", "expiring" } do
	RESERVED[name] = true
end

-- What an event's name is and this one is not; nil if nothing is wrong with it.
function words.lacks(name)
	if string.find(name, "[\r\n%z]") then return "one line" end
	return if utf8.len(name) then nil else "UTF-8"
end

-- How `aether.publish` is told the name of an event.
function words.options(event)
	local plain = #event <= 128 and not RESERVED[event] and not string.find(event, "%c") and utf8.len(event) ~= nil
	return if plain then { event = event } else { meta = { event = event } }
end

local function event_of(ev)
	local meta = ev.meta and json.decode(ev.meta)
	local beside = type(meta) == "table" and meta.event
	return if type(beside) == "string" and not words.lacks(beside) then beside else ev.event or "message"
end

-- Data is a text there. A JSON string is its text, any other JSON stands as it was written.
local function data_of(ev)
	if ev.media == "binary" then return aether.crypto.base64.encode(ev.payload) end
	local text = ev.media == "json" and string.byte(ev.payload) == 34 and json.decode(ev.payload)
	return text or ev.payload
end

-- As Go's encoding/json writes a string: what HTML or JavaScript would read as their own is escaped too.
local function quoted(text)
	text = string.gsub(json.encode(text), "[<>&]", { ["<"] = "\\u003c", [">"] = "\\u003e", ["&"] = "\\u0026" })
	text = string.gsub(text, "\u{2028}", "\\u2028")
	return (string.gsub(text, "\u{2029}", "\\u2029"))
end

local function now()
	local ms = aether.now_ms()
	local fraction = string.gsub(string.format(".%03d", ms % 1000), "%.?0+$", "")
	return os.date("!%Y-%m-%dT%H:%M:%S", ms // 1000) .. fraction .. "Z"
end

-- A frame that is no message: like the first one of each WebSocket, no topic stands before it.
function words.note(topic, event, data, code)
	local more = if code then `,"code":{quoted(code)}` else ""
	return `\{"topic":{quoted(topic)},"event":{quoted(event)},"data":{quoted(data)},"timestamp":"{now()}"{more}}`
end

-- The topic and then the message; its README said the message alone.
local function push(ev)
	local topic = topics.of(ev.channel)
	local prefix = if ev.style == "json" then "" else topic .. " "
	local data = `"data":{quoted(data_of(ev))},"timestamp":"{ev.time}"`
	return `{prefix}\{"topic":{quoted(topic)},"event":{quoted(event_of(ev))},{data}}`
end

-- Messages that were kept no longer, or that somebody must not see. A second copy is nothing that is missing.
local function gap(ev)
	if ev.cause == "once" then return nil end
	return json.encode({ cause = ev.cause, first = ev.first, last = ev.last })
end

function words.on_ws(ev)
	if ev.kind == "message" then return push(ev), "binary" end
	local topic = if ev.channel then topics.of(ev.channel) else ev.tag and ev.tag.topic or ""
	if ev.kind == "denied" or ev.kind == "error" then return words.note(topic, "error", ev.why, ev.code), "binary" end
	if ev.kind == "gap" then
		local missing = gap(ev)
		return missing and words.note(topic, "gap", missing), "binary"
	end
	if ev.kind ~= "subscribed" and ev.kind ~= "unsubscribed" then return nil end
	-- Whoever asked hears it in its own form; nobody asked for the channels of the URL.
	if ev.tag and ev.tag.by == "command" then return "OK", "binary" end
	if ev.tag or ev.kind == "unsubscribed" then return words.note(topic, ev.kind, topic), "binary" end
	return nil
end

function words.on_sse(ev)
	if ev.kind == "message" then return aether.sse({ event = event_of(ev), data = data_of(ev) }) end
	if ev.kind == "gap" then
		local missing = gap(ev)
		return missing and aether.sse({ event = "gap", data = missing })
	end
	if ev.kind == "ping" then return aether.sse({ comment = os.date("heartbeat %Y-%m-%d %H:%M:%S") }) end
	if ev.kind == "unsubscribed" then return aether.sse({ comment = "unsubscribed" }) end
	return nil
end

return words
