-- A channel's name with `{a.b.c}` where something of a JSON body goes.

local json = aether.json
local template = {}

-- What stands at a dotted path, as it was written; nil if there is nothing, or something that is no name.
local function at(body, path)
	for key in string.gmatch(path .. ".", "([^.]*)%.") do
		if type(body) ~= "table" or key == "" then return nil end
		body = body[key]
	end
	if body == json.null then return "null" end
	if type(body) == "string" then return body end
	if type(body) == "boolean" then return tostring(body) end
	if type(body) ~= "number" then return nil end
	-- Digits were lost on the way: two such numbers could meet in one channel. Integers of 64 bits came as texts, with all of theirs.
	if math.abs(body) >= 2 ^ 53 then return nil end
	-- 1e+06 is no channel.
	return if body % 1 == 0 then string.format("%.0f", body) else tostring(body)
end

-- The channel that a body goes to, or nil. What is filled in is not looked at again, so no value can ask for another; `one_segment` says
-- that it also cannot reach beyond its place.
function template.fill(text, body, one_segment)
	local whole = true
	local channel = string.gsub(text, "{([^{}]*)}", function(path)
		local value = at(body, path)
		if not value or (one_segment and string.find(value, "[./:]")) then
			whole = false
			return ""
		end
		return value
	end)
	return if whole then channel else nil
end

return template
