-- xlvein: users connect with a token of their application, and its back end pushes to them.
--
-- Each account is a channel, xlvein.<app_key>.<account>; who connects as one listens to it and to nothing else.

local cfg, allow, deny = aether.config, aether.allow, aether.deny
local address, apps, frames = require("./lib/address"), require("./lib/apps"), require("./lib/frames")
local nonces, push = require("./lib/nonces"), require("./lib/push")

-- A refusal: its number and sentence as xlvein has them, the status that says the same, a word for logs.
local FIELD_MISSING = { number = 400, text = "请求参数错误", status = 400, code = "bad_request" }
local BAD_TOKEN = { number = 1000, text = "错误的Token", status = 401, code = "bad_token" }
local UNKNOWN_APP = { number = 1001, text = "internal not found", status = 404, code = "unknown_app" }
local BAD_SIGN = { number = 1002, text = "sign invalid", status = 401, code = "bad_signature" }
local BAD_MESSAGE = { number = 1003, text = "message invalid", status = 400, code = "bad_message" }
local TRY_LATER = { number = 500, text = "请稍后重试", status = 503, code = "busy" }
local NOT_ALLOWED = { number = 500, text = "请稍后重试", status = 403, code = "not_allowed" }

local function json(status, text, kind)
	return { status = status, headers = { ["content-type"] = kind or "application/json; charset=utf-8" }, body = text }
end

---- Users ----

-- Who comes: the application, the account and the claims; or nil and why not.
local function enter(query)
	local app_key, token = query.app_id or "", query.token or ""
	if app_key == "" or token == "" then return nil, FIELD_MISSING end
	local app = apps.find(app_key)
	if not app then return nil, UNKNOWN_APP end
	local account, claims = apps.account(app, token)
	if not account then return nil, BAD_TOKEN end
	return app, account, claims
end

aether.on.connect(function(req)
	if req.dialect ~= "xlvein" then return nil end
	local app, account, claims = enter(req.query)
	if not app then return deny(account.code, account.text) end
	return allow({
		user = account,
		tenant = app.key,
		expires = if cfg.end_with_token and claims.exp then claims.exp + cfg.leeway else nil,
		grants = { subscribe = { address.of(app.key, account) } },
	})
end)

-- A no keeps others out of these channels whatever they were granted.
local function outsider(s)
	if s.dialect ~= "xlvein" and not cfg.native then
		return deny("of_xlvein", "these channels belong to the plugin xlvein; native = true opens them")
	end
	return nil
end

aether.on.subscribe("xlvein.*", function(s)
	if s.dialect == "xlvein" and not apps.find(s.tenant) then return deny("unknown_app", "this application is known no longer") end
	return outsider(s)
end)

aether.on.history("xlvein.*", outsider)

aether.on.publish("xlvein.*", function(s)
	if s.dialect ~= "xlvein" then return outsider(s) end
	local app = apps.find(s.tenant)
	if app and app.peer then return allow() end
	return deny("no_peers", "users of this application may not send to each other; peer = true lets them")
end)

-- Nothing is kept: who is away misses it. Who is there and does not read is sent away, for these frames have no word for what it would miss.
aether.on.retention("xlvein.*", function()
	return { history = false, lag = "close", max_lag = 100 }
end)

local function hear(c, bytes)
	local said, why = frames.read(bytes)
	if not said then return c:fail("bad_frame", why) end
	local app = apps.find(c.tenant)
	if app and app.peer and not app.events[said.event] then return c:fail("bad_event", `event {said.event} is for nobody`) end
	local meta = frames.meta(said.to, { from = c.user, event = said.event })
	return c:publish(address.of(c.tenant, said.to), said.data, { media = "json", meta = meta })
end

-- xlvein looks at the token before it looks at the handshake, and says so with 200. What is wrong then is in Go's words.
local function refuse(no, req)
	local app, why = enter(req.query)
	if not app then
		return json(if cfg.compat then 200 else why.status, `\{"code":{why.number},"detail":"","msg":"{why.text}"}`)
	end
	if no.status ~= 400 and no.status ~= 426 then return nil end
	return { status = 400, headers = { ["content-type"] = "text/plain; charset=utf-8", ["sec-websocket-version"] = "13" }, body = "Bad Request\n" }
end

aether.dialect("xlvein", {
	mount = { ws = "/ws/connect" },
	frame = { max = cfg.max_frame },
	beat = { every = "9s", timeout = "10s" },
	origins = cfg.origins,
	on_open = function(c) return c:subscribe(address.of(c.tenant, c.user)) end,
	on_frame = hear,
	encode = function(ev) return if ev.kind == "message" then frames.write(ev) else nil end,
	refuse = refuse,
})

---- Back ends ----

local function accepted()
	return json(200, '{"error":0,"data":{},"message":""}')
end

local function refused(why, detail)
	local text = if detail then `{why.text}: {detail}` else why.text
	return json(if cfg.compat then 200 else why.status, `\{"error":{why.number},"message":{aether.json.encode(text)}}`)
end

-- Sends to an account what an application's back end says: true, or nil and a refusal.
local function send(app, account, message)
	local receipt, code, _, wait = aether.publish_now(address.of(app.key, account), message, { media = "json", meta = frames.meta(account) })
	if receipt then return true end
	return nil, if code == "busy" or code == "stopping" or code == "store" then TRY_LATER else NOT_ALLOWED, wait
end

aether.http.route("POST", "/api/v1/im/push", { auth = "none" }, function(req)
	local fields, what = push.read(req)
	if not fields then
		local answer = refused(FIELD_MISSING, what)
		-- Of a form it says so before it knows what it will say.
		if not push.is_json(req) then answer = json(400, answer.body, if cfg.compat then "text/plain; charset=utf-8" else nil) end
		return answer
	end
	local app = apps.find(fields.app_key)
	if not app then return refused(UNKNOWN_APP) end
	if not push.is_genuine(app, req, fields) then return refused(BAD_SIGN) end
	if not frames.is_message(fields.message) then return refused(BAD_MESSAGE) end

	local fresh = nonces.take(app, fields.nonce)
	if fresh == nil then return refused(TRY_LATER) end
	if not fresh then return refused(BAD_SIGN, "this nonce was used before") end
	local sent, why, wait = send(app, fields.send_to, fields.message)
	if sent then return accepted() end
	nonces.free(app, fields.nonce)
	local answer = refused(why)
	if wait then answer.headers["retry-after"] = tostring(math.ceil(wait / 1000)) end
	return answer
end)

---- Whoever tries it out ----

-- The address with which a user connects, as `ProduceIMToken` of xlvein's SDK would make it, good for a day.
aether.http.route("GET", "/api/v1/im/url", function(req)
	local app, account = apps.find(req.query.app_id or ""), req.query.account or ""
	if not app then return { status = 404, json = { error = "app_id names no application of the settings" } } end
	if account == "" then return { status = 400, json = { error = "account is missing: whose connection is it to be?" } } end
	local base = string.gsub(string.gsub(cfg.public_url or `http://{req:header("host")}`, "^http", "ws"), "/$", "")
	local claims = { sub = account, iss = "TimeToken", exp = aether.now_ms() // 1000 + 86400 }
	local token = aether.jwt.sign(claims, { alg = cfg.algorithms[1], key = app.secret, min_key = cfg.min_secret })
	local app_id = string.gsub(app.key, "[^%w_.-]", function(byte) return string.format("%%%02X", string.byte(byte)) end)
	return { json = { url = `{base}/ws/connect?app_id={app_id}&token={token}` } }
end)
