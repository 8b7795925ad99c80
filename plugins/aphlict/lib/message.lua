-- What publishers post: read, and written on with who has touched it. All the rest of it stays byte for byte as it came.

local json = aether.json
local message = {}

-- The servers of old write `touched` last, and there is not much of it.
local TAIL = 4096

local function texts(list)
	local all, are = {}, type(list) == "table"
	for at, one in if are then list else {} do
		if type(at) ~= "number" or type(one) ~= "string" then return all, false end
		table.insert(all, one)
	end
	-- An empty object is no list.
	return all, are and (#all > 0 or json.encode(list) == "[]")
end

-- One more member at the end of an object that has some.
local function with(text, name, value)
	return `{string.sub(text, 1, -2)},"{name}":{json.encode(value)}}`
end

-- nil if it is no notification.
function message.read(text)
	local body = json.decode(text)
	if type(body) ~= "table" then return nil end
	local subscribers, good = texts(body.subscribers)
	if not good then return nil end
	local last = #text
	while string.find(text, "^%s", last) do last -= 1 end
	local unique = if body.uniqueID ~= "" then body.uniqueID else nil
	return {
		text = string.sub(text, 1, last),
		body = body,
		subscribers = subscribers,
		touched = texts(body.touched),
		unique = unique and json.encode(unique),
	}
end

function message.name(said, unique)
	said.text, said.unique = with(said.text, "uniqueID", unique), json.encode(unique)
end

-- Without its `touched`, which seldom stands elsewhere than at the end: then the members lose their order, but no byte.
local function untouched(said)
	local at = string.find(said.text, ',"touched":%[[^%[%]]*%]}$', math.max(1, #said.text - TAIL))
	if at then return string.sub(said.text, 1, at - 1) .. "}" end
	if said.body.touched == nil then return said.text end
	local members = {}
	for name, raw in json.members(said.text) do
		if name ~= "touched" then table.insert(members, `{json.encode(name)}:{raw}`) end
	end
	table.sort(members)
	return `\{{table.concat(members, ",")}}`
end

function message.touch(said, fingerprint)
	table.insert(said.touched, fingerprint)
	local rest = untouched(said)
	said.text = with(rest, "touched", json.array(said.touched))
end

-- What it says, however it is written and whoever has touched it.
function message.content(said)
	local rest = table.clone(said.body)
	rest.touched = nil
	return json.encode(rest)
end

return message
