-- Clients of the Go framework realtime: what they send is routed to handlers that scripts register with require("@realtime").

local cfg, allow, deny = aether.config, aether.allow, aether.deny
local envelope, middleware, names = require("./lib/envelope"), require("./lib/middleware"), require("./lib/names")
local routes, send, session = require("./lib/routes"), require("./lib/send"), require("./lib/session")

local messages = aether.metrics.counter("messages_total", { help = "Messages of clients", labels = { "result" } })
local FOREVER = "87600h"
local LAG = { close = "close", ["drop-newest"] = "drop_newest", ["drop-oldest"] = "drop_oldest" }
local INITIATORS = { lag = "backpressure", timeout = "error" }
local told = { connect = {}, disconnect = {}, error = {} }

-- A setting in seconds, for the hub; 0 is without end.
local function time(seconds)
	return if seconds > 0 then `{math.floor(seconds * 1000)}ms` else FOREVER
end

-- realtime lists hosts, the hub origins.
local function origins()
	if cfg.insecure_origins then return { "*" } end
	local list = {}
	for _, one in cfg.origins do
		local whole = one == "*" or string.find(one, "://", 1, true)
		for _, scheme in if whole then { "" } else { "http://", "https://" } do table.insert(list, scheme .. one) end
	end
	return list
end

local function listener(what)
	return function(fn)
		routes.check_open(`on_{what}`)
		if type(fn) ~= "function" then error(`rt.on_{what}: expected a function, got a {type(fn)}`, 2) end
		table.insert(told[what], fn)
	end
end

-- What went wrong, without where in our files: that is in the log.
local function plainly(why)
	local line = string.match(tostring(why), "^[^\n]*")
	line = string.gsub(line, "^runtime error: ", "")
	return (string.gsub(line, "^%S+%.luau?:%d+: ", ""))
end

-- A message came to nothing; the connection goes on.
local function failed(s, code, why, env)
	messages:inc(1, { result = code })
	for _, fn in told.error do
		local ok, broken = pcall(fn, s, why, env)
		if not ok then aether.log.error("an error handler failed", { error = tostring(broken) }) end
	end
	if #told.error == 0 and code == "failed" then
		aether.log.warn("a handler failed", { session = s.id, route = env.route, error = tostring(why) })
	end
	if code ~= "bad_envelope" and cfg.error_route ~= "" then
		s:send_message({ id = env.id, route = cfg.error_route, data = { code = code, message = plainly(why) } })
	end
end

aether.on.connect(function(req)
	if req.dialect ~= "realtime" or cfg.authenticator == "hub" then return nil end
	if cfg.authenticator == "anonymous" then return allow({ user = "anonymous" }) end
	-- Not of the address: those end in the logs of proxies.
	local token, shown = aether.secret("realtime_token"), if req.query.token then nil else req:bearer()
	if not token or not shown or not aether.crypto.equal(token, shown) then return deny("unauthorized", "unauthorized") end
	return allow({ user = cfg.token_identity, tenant = cfg.token_tenant, attrs = { roles = cfg.token_roles } })
end)

-- Its channels are for its own connections, each for what is its own; back ends publish with their grants.
aether.on.subscribe("realtime.*", function(s, ch)
	if names.is_of(ch.name, s) then return allow() end
	return deny("not_yours", "this is a channel of the dialect realtime")
end)

aether.on.history("realtime.*", function()
	return deny("no_history", "the dialect realtime keeps nothing")
end)

aether.on.publish("realtime.*", function(s, ch)
	if s.transport == "plugin" then return nil end
	if s.transport ~= "http" then return deny("back_end_only", "only back ends publish here") end
	-- Whoever is of a tenant speaks to that tenant, whatever it was granted.
	if (s.tenant or "") ~= "" and not names.is_within(ch.name, s.tenant) then
		return deny("other_tenant", "this is not a channel of your tenant")
	end
	return nil
end)

aether.on.retention("realtime.*", function()
	local bound = cfg.send_queue > 0
	return { history = false, lag = if bound then LAG[cfg.backpressure] else "catch_up", max_lag = bound and cfg.send_queue }
end)

aether.dialect("realtime", {
	mount = { ws = cfg.path, listen = cfg.listen },
	async = cfg.async,
	frame = { max = cfg.read_limit },
	beat = { every = time(cfg.heartbeat), timeout = time(cfg.pong_timeout) },
	limits = {
		connections = if cfg.max_connections > 0 then cfg.max_connections else nil,
		handshake = time(cfg.auth_timeout),
		write = time(cfg.write_timeout),
	},
	origins = origins(),

	on_open = function(c)
		routes.seal()
		if (c.user or "") == "" then return c:fail("unauthorized", "unauthorized") end
		local s = session.of(c)
		for _, fn in told.connect do
			local ok, result, why = pcall(fn, s)
			if not ok then aether.log.error("on_connect failed", { session = s.id, error = tostring(result) }) end
			if not ok or result == false or why or s.closed then return c:fail("refused", tostring(why or "refused")) end
		end
		c:subscribe(names.session(c.id))
		c:subscribe(names.identity(c.tenant, c.user))
		c:subscribe(names.all)
	end,

	on_frame = function(c, frame)
		routes.seal()
		local s = session.of(c)
		local env, wrong = envelope.read(frame)
		if not env then
			failed(s, "bad_envelope", wrong, {})
			return c:fail("bad_envelope", wrong)
		end
		if cfg.debug then aether.log.info("a message", { session = s.id, route = env.route, size = #frame }) end
		local ok, result, why = pcall(routes.run, s, env)
		if ok and why == nil then return messages:inc(1, { result = "ok" }) end
		why = if ok then why else result
		failed(s, if why == "unknown_route" then "unknown_route" else "failed", why, env)
	end,

	encode = function(ev)
		if ev.kind == "message" then
			-- What handlers and back ends send is an envelope; what has an event's name becomes one.
			if not ev.event and ev.media == "json" and string.byte(ev.payload) == 123 then return ev.payload end
			local data = if ev.media == "json" then envelope.raw(ev.payload) else ev.payload
			if ev.media == "binary" then data = aether.crypto.base64.encode(data) end
			return envelope.write({ route = ev.event, data = data })
		elseif ev.kind == "gap" and ev.cause ~= "once" and ev.first and cfg.dropped_route ~= "" then
			return envelope.write({ route = cfg.dropped_route, data = { dropped = ev.last - ev.first + 1 } })
		elseif ev.kind == "error" and ev.what == "frame" and cfg.error_route ~= "" then
			return envelope.write({ route = cfg.error_route, data = { code = ev.code, message = ev.why } })
		end
		return nil
	end,

	on_close = function(c, why)
		local s = session.of(c)
		local report = {
			initiator = INITIATORS[why.cause] or why.cause,
			code = why.code or 0,
			reason = why.reason,
			expected = why.expected,
			err = if why.expected then nil else why.reason,
			at = session.time(aether.now_ms()),
		}
		for _, fn in told.disconnect do
			local ok, broken = pcall(fn, s, report)
			if not ok then aether.log.error("on_disconnect failed", { session = s.id, error = tostring(broken) }) end
		end
	end,

	refuse = function(no)
		local status = no.status
		if no.code == "unauthorized" then status = 401 elseif no.code == "refused" then status = 403 end
		if status == 429 then status = 503 end
		return { status = status, headers = { ["content-type"] = "text/plain; charset=utf-8" }, body = no.why .. "\n" }
	end,
})

require("./lib/back_end")(if cfg.listen then "/rt" else cfg.path)

aether.export({
	handle = routes.handle,
	prefix = routes.prefix,
	fallback = routes.fallback,
	use = routes.use,
	recovery = middleware.recovery,
	timeout = middleware.timeout,
	logger = middleware.logger,
	on_connect = listener("connect"),
	on_disconnect = listener("disconnect"),
	on_error = listener("error"),
	raw = envelope.raw,
	broadcast = send.broadcast,
	broadcast_message = send.broadcast_message,
	send_to_identity = send.send_to_identity,
	send_message_to_identity = send.send_message_to_identity,
	send_to_session = send.send_to_session,
	send_to_room = send.send_to_room,
	is_online = send.is_online,
	sessions = send.sessions,
})
