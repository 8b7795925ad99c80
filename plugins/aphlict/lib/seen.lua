-- Which messages have been here, whichever way they came.

local crypto = aether.crypto
local message = require("./message")
local book = aether.shared("aphlict_seen")
local seen = {}

-- Longer than any node tries to get a message through, and than it is kept.
local REMEMBERED = "3m"
-- Copies of one message are closer together than messages that say the same.
local NAMELESS = "5s"

local function key(tenant, said)
	local name = said.unique or said.touched[1] .. message.content(said)
	return { tenant, crypto.sha256(name) }
end

-- Whether it is here for the first time; from then on it is not.
function seen.first(tenant, said)
	-- What nobody has named or touched comes from its publisher.
	if not said.unique and #said.touched == 0 then return true end
	return book:set(key(tenant, said), true, { if_absent = true, ttl = if said.unique then REMEMBERED else NAMELESS })
end

function seen.forget(tenant, said)
	if said.unique or #said.touched > 0 then book:set(key(tenant, said), nil) end
end

return seen
