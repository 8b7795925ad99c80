-- Instances: which one a request is about, and the channels of those who listen in it.

local crypto = aether.crypto
local instance = {}

local DEFAULT = "default"

-- A text as one part of a channel's name. Those that do not fit are named by their hash, which is one longer than the longest that fits.
local function part(text, longest)
	if #text <= longest and string.match(text, "^[%w_-]+$") then return text end
	return string.sub(crypto.sha256(text), 1, longest + 1)
end

local function named(name)
	if name == nil or name == "" then name = DEFAULT end
	return { name = name, tenant = "aphlict." .. part(name, 31) }
end

-- `/ws/~acme/`: what stands between the first ~ and the next, without slashes.
function instance.of_path(path)
	local name = string.match(path, "~([^~]*)")
	return named(name and string.gsub(name, "/", ""))
end

-- `?instance=acme`
function instance.of_query(query)
	return named(query.instance)
end

function instance.channel(tenant, id)
	return `{tenant}.{part(id, 63)}`
end

return instance
