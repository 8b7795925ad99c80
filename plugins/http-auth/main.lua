-- A back end says who somebody is and what they may. Whatever goes wrong on the way there is a no.

local cfg, allow, deny, json = aether.config, aether.allow, aether.deny, aether.json
local key = aether.secret("http_auth_key")
local health = aether.shared("http-auth")

local URL = string.gsub(cfg.url, "/*$", "") .. "/"
local VERBS = { "subscribe", "publish", "history" }

-- One question over the wire: its answer, or nil if there is none. Who does not answer is left alone for a while.
local function post(what, question)
	if (health:get("failures") or 0) >= cfg.failures then return nil end
	local res, why = aether.http.post(URL .. what, {
		json = question,
		headers = if key then { authorization = key } else nil,
		timeout = cfg.timeout,
	})
	if res and res.status < 500 and res.status ~= 429 then
		local said = res:json()
		if what ~= "connect" or res.status ~= 200 or type(said) == "table" then
			health:set("failures", nil)
			return { status = res.status, said = said }
		end
		why = "said 200, and not in JSON who it is"
	end
	local failures = health:incr("failures", 1, { ttl = cfg.rest })
	aether.log.warn("the back end does not answer", { asked = URL .. what, why = why or res.status, failures = failures })
	return nil
end

-- The same question within `remember` is one question, however many ask it at once: its text is what it is known by.
local ask = aether.memo(function(what, question)
	-- An error, so that it is not remembered.
	return post(what, json.decode(question)) or error("no answer")
end, { name = "http-auth", ttl = cfg.remember })

-- The answer to a question, or nil and the no that stands in for it.
local function answer_to(what, question)
	local asked, answer = pcall(ask, what, json.encode(question))
	if asked then return answer end
	return nil, deny("unavailable", "who may what cannot be asked just now", { retry_ms = cfg.rest * 1000 })
end

-- The back end's no, in its own words if it has some.
local function refused(answer, code)
	local said = if type(answer.said) == "table" then answer.said else {}
	if type(said.code) == "string" and string.match(said.code, "^[%w_.-]+$") then code = said.code end
	return deny(code, if type(said.message) == "string" then said.message else nil)
end

local function identity(said)
	local grants = {}
	for _, verb in VERBS do
		grants[verb] = aether.patterns(said[verb])
	end
	return allow({
		user = said.user,
		tenant = said.tenant,
		expires = said.expires,
		attrs = said.attrs,
		ttl = cfg.remember,
		grants = grants,
	})
end

aether.on.connect(function(req)
	local credential = req:bearer() or (cfg.cookie and req:cookie(cfg.cookie))
	if not credential then return nil end -- nobody to ask about: let the next rule look

	local shown = {}
	for _, name in cfg.headers do
		shown[string.lower(name)] = req:header(name)
	end
	local answer, no = answer_to("connect", { credential = credential, transport = req.transport, ip = req.ip, headers = shown })
	if not answer then return no end
	if answer.status ~= 200 then return refused(answer, "bad_credential") end
	return identity(answer.said)
end)

for _, pattern in cfg.subscribe do
	aether.on.subscribe(pattern, function(s, ch)
		local answer, no = answer_to("subscribe", { user = s.user, tenant = s.tenant, attrs = s.attrs, channel = ch.name })
		if not answer then return no end
		if answer.status ~= 200 then return refused(answer, "not_allowed") end
		return allow()
	end)
end
