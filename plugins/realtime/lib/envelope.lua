-- Envelopes, read and written. Their data is opaque: what came in goes out byte for byte, wherever a handler puts it.

local json = aether.json
local envelope = {}

local Data = {}
Data.__index = Data
Data.__tostring = function(data) return data.text end

function Data:json()
	return json.decode(self.text)
end

local Envelope = {}
Envelope.__index = Envelope

function Envelope:json()
	return self.data and self.data:json()
end

-- JSON that stands as it is, in whatever is sent.
function envelope.raw(text)
	return table.freeze(setmetatable({ text = text }, Data))
end

local function is_data(value)
	return type(value) == "table" and getmetatable(value) == Data
end

local function holds_data(value)
	if type(value) ~= "table" then return false end
	if is_data(value) then return true end
	for _, inner in value do
		if holds_data(inner) then return true end
	end
	return false
end

local function text_of(value)
	if not holds_data(value) then return json.encode(value) end
	if is_data(value) then return value.text end
	local parts = {}
	if #value > 0 then
		for at, inner in ipairs(value) do parts[at] = text_of(inner) end
		return `[{table.concat(parts, ",")}]`
	end
	local keys = {}
	for key in value do table.insert(keys, key) end
	table.sort(keys)
	for at, key in keys do parts[at] = `{json.encode(key)}:{text_of(value[key])}` end
	return "{" .. table.concat(parts, ",") .. "}"
end

-- What a member that is a text holds; absent and null are "".
local function text_member(raw)
	if raw == nil or raw == "null" then return "" end
	return if string.sub(raw, 1, 1) == '"' then json.decode(raw) else nil
end

local function read_metadata(raw)
	if raw == nil or raw == "null" then return {} end
	local members = json.members(raw)
	if not members then return nil end
	for name, value in members do
		members[name] = text_member(value)
		if not members[name] then return nil end
	end
	return members
end

-- The envelope in a frame, or nil and what is wrong with it.
function envelope.read(frame)
	local members, why = json.members(frame)
	if not members then return nil, why end
	local id, route, metadata = text_member(members.id), text_member(members.route), read_metadata(members.metadata)
	if not id then return nil, "id: expected a text" end
	if not route then return nil, "route: expected a text" end
	if not metadata then return nil, "metadata: expected an object of texts" end
	local data = members.data and envelope.raw(members.data)
	return setmetatable({ id = id, route = route, data = data, metadata = metadata }, Envelope)
end

-- Its text; what is empty is left out.
function envelope.write(env)
	local parts = {}
	local function put(name, text) table.insert(parts, `"{name}":{text}`) end
	if env.id and env.id ~= "" then put("id", json.encode(env.id)) end
	if env.route and env.route ~= "" then put("route", json.encode(env.route)) end
	if env.data ~= nil then put("data", text_of(env.data)) end
	if env.metadata and next(env.metadata) ~= nil then put("metadata", json.encode(env.metadata)) end
	return "{" .. table.concat(parts, ",") .. "}"
end

return envelope
