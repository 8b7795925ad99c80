-- Frames: what clients send, and what they are sent.

local cfg, json = aether.config, aether.json

local frames = {}

local function text(raw)
	-- Only what is written as a text: an integer beyond 2^53 would come as one.
	return if raw and string.sub(raw, 1, 1) == '"' then json.decode(raw) else nil
end

local function is_object(raw)
	return string.sub(raw, 1, 1) == "{"
end

-- `{to, event, data}` of a client's frame, or nil and why it is none. The data stays as it is written.
function frames.read(bytes)
	local members, why = json.members(bytes)
	if not members then return nil, why end
	local to, event, data = text(members.to), members.event or "0", members.data or "null"
	if not to or to == "" then return nil, "to is missing" end
	if event == "null" then event = "0" end
	if not string.match(event, "^%-?%d+$") then return nil, "event is an integer" end
	if data ~= "null" and not is_object(data) then return nil, "data is an object" end
	return { to = to, event = tonumber(event), data = data }
end

-- Whether this is what a back end may push.
function frames.is_message(raw)
	return json.members(raw) ~= nil
end

-- What goes with a message beside its data.
function frames.meta(to, said)
	local now = aether.now_ms()
	local meta = { to = to, msg_id = aether.crypto.uuid(), send_at = now }
	if said then
		meta.from, meta.event, meta.conversation_id = said.from, said.event, to
		if cfg.compat then meta.send_at = now // 1000 end
	end
	return meta
end

-- The frame of a message. Of one that somebody published natively it says what there is to say.
function frames.write(ev)
	local said = ev.meta and json.decode(ev.meta)
	if type(said) ~= "table" then
		said = { to = aether.channel.parts(ev.channel)[3], msg_id = `{ev.epoch}-{ev.offset}`, send_at = ev.time_ms }
	end

	local members = {}
	local function put(name, value) table.insert(members, `"{name}":{value}`) end
	local function put_text(name)
		if type(said[name]) == "string" and said[name] ~= "" then put(name, json.encode(said[name])) end
	end
	put_text("from")
	put("to", json.encode(tostring(said.to)))
	local event = tonumber(said.event) or 0
	if event ~= 0 or not cfg.compat then put("event", string.format("%d", event)) end
	put("data", if ev.media == "json" then ev.payload else json.encode(ev.payload))
	put_text("msg_id")
	if tonumber(said.send_at) then put("send_at", string.format("%d", said.send_at)) end
	put_text("conversation_id")
	return `\{{table.concat(members, ",")}}`
end

return frames
