-- A signed token says who somebody is (`sub`) and which channels they may read (`channels`) and write (`publish`).

local cfg, allow, deny = aether.config, aether.allow, aether.deny

local tokens = aether.jwt.verifier({
	alg = cfg.algorithms,
	key = if cfg.jwks_url then nil else aether.secret("signing_key"),
	jwks = cfg.jwks_url,
	iss = cfg.issuer,
	aud = cfg.audience,
	leeway = cfg.leeway,
	require_exp = cfg.require_exp,
})

local function is_token(raw)
	local _, dots = string.gsub(raw, "%.", "")
	return dots == 2
end

-- A claim that lists patterns: absent, or a list of strings.
local function is_list(claim)
	if claim == nil then return true end
	if type(claim) ~= "table" then return false end
	for key, item in claim do
		if type(key) ~= "number" or type(item) ~= "string" then return false end
	end
	return true
end

local function text(claim)
	return if claim == nil then nil else tostring(claim)
end

-- What is remembered of a request's token still ends with it.
local function stays(req)
	return not cfg.end_with_token and req.transport ~= "http"
end

aether.on.connect(function(req)
	local raw = req:bearer()
	if not raw or not is_token(raw) then return nil end -- not ours: let the next plugin look

	local claims, why = tokens:verify(raw)
	if not claims then return deny("bad_token", why) end
	if not is_list(claims.channels) or not is_list(claims.publish) then
		return deny("bad_token", "channels and publish must be lists of strings")
	end

	local attrs = {}
	for _, name in cfg.attributes do
		attrs[name] = claims[name]
	end
	local readable = aether.patterns(claims.channels)
	return allow({
		user = text(claims.sub),
		tenant = text(claims[cfg.tenant_claim]),
		expires = if stays(req) then nil else claims.exp and claims.exp + cfg.leeway, -- what was let in within the leeway is not thrown out at once
		ttl = cfg.remember,
		attrs = attrs,
		grants = { subscribe = readable, history = readable, publish = aether.patterns(claims.publish) },
	})
end)
