-- The applications of the settings: who they are, whose tokens are good, and what their users may.

local cfg = aether.config
local address = require("./address")

local known = {}

for at, app in cfg.applications do
	local function wrong(what) error(`applications[{at}]: {app.app_key}: {what}`, 0) end

	-- In what MD5 signs, these end a value.
	if not string.match(app.app_key, "^[^&=]+$") then wrong("an app_key is not empty, and has no & and no =") end
	if not address.of(app.app_key, "x") or not address.of(app.app_key, string.rep("x", 200)) then
		wrong("this app_key is too long to name channels by")
	end
	if known[app.app_key] then wrong("there is another application of this app_key") end
	if not app.app_secret then wrong("its app_secret is not set: name it under [secrets] in aether.toml") end

	local events = {}
	for _, event in app.events do
		if event ~= 0 and event ~= 1 then wrong(`events: {event}: there are 0 and 1; nobody can be told who is in a chat room`) end
		events[event] = true
	end
	local made, tokens = pcall(aether.jwt.verifier, {
		alg = cfg.algorithms,
		key = app.app_secret,
		min_key = cfg.min_secret,
		leeway = cfg.leeway,
		require_exp = cfg.require_exp,
	})
	if not made then wrong(`app_secret: {string.match(tostring(tokens), "key: ([^\n]*)") or tokens} (min_secret)`) end

	known[app.app_key] = {
		key = app.app_key,
		secret = app.app_secret,
		tokens = tokens,
		peer = app.peer,
		events = events,
		md5 = cfg.compat and app.md5,
	}
end

local apps = {}

function apps.find(app_key)
	return known[app_key]
end

-- Whose token this is, and what it claims; nil if it is nobody's.
function apps.account(app, token)
	local claims = app.tokens:verify(token)
	if not claims or type(claims.sub) ~= "string" or not address.of(app.key, claims.sub) then return nil end
	if type(claims.iat) == "number" and claims.iat > aether.now_ms() / 1000 + cfg.leeway then return nil end
	return claims.sub, claims
end

return apps
