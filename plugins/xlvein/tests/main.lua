local t = aether.test
local address, frames = require("../lib/address"), require("../lib/frames")

local SECRET = "j8jasd98efan9sdfj89asjdf"
t.secret("test_secret", SECRET)

local function settings(more)
	local all = { applications = { { app_key = "test", app_secret = "test_secret", peer = true } } }
	for key, value in more or {} do
		all[key] = value
	end
	t.config(all)
end
settings()

local function token(claims)
	return aether.jwt.sign(claims, { alg = "HS256", key = SECRET, min_key = 16 })
end

local function user(account)
	return t.dialect("xlvein", { query = { app_id = "test", token = token({ sub = account }) } })
end

local function sign(to, message, nonce)
	local signed = `app_key=test&message={message}&nonce={nonce}&send_to={to}&key={SECRET}`
	return string.upper(aether.crypto.md5(signed))
end

local function push(to, message, nonce, signature)
	local fields = { app_key = "test", send_to = to, message = message, nonce = nonce, sign = signature or sign(to, message, nonce) }
	return t.route("POST", "/api/v1/im/push", { json = fields, headers = { ["content-type"] = "application/json" } }).json
end

t.case("the signature is the one of its documentation", function()
	t.equal(sign("user_1", '{"text":"hi"}', "abc123"), "E556211DB99A41E02D50EB663DED7C21")
	t.equal(push("user_1", '{"text":"hi"}', "abc123", "E556211DB99A41E02D50EB663DED7C21").error, 0)
end)

t.case("a push reaches the account, as it was written", function()
	local ann, bob = user("ann"), user("bob")
	t.equal(push("ann", '{"f":1.0}', "n1"), { error = 0, data = {}, message = "" })
	local frame = ann:texts()[1]
	t.matches(frame, [[^{"to":"ann","data":{"f":1%.0},"msg_id":"%x+%-%x+%-%x+%-%x+%-%x+","send_at":1767225600000}$]])
	t.equal(bob:texts(), {})
end)

t.case("a nonce is good once, until it is forgotten", function()
	t.equal(push("ann", "{}", "n1").error, 0)
	t.equal(push("ann", "{}", "n1").error, 1002)
	t.equal(push("bob", "{}", "n1").error, 1002)
	t.clock.advance("8d")
	t.equal(push("ann", "{}", "n1").error, 0)
end)

t.case("what is not signed, no object or of nobody is refused", function()
	t.equal(push("ann", "{}", "n1", "x").error, 1002)
	t.equal(push("ann", "[]", "n1").error, 1003)
	t.equal(push("ann", "{}", "").error, 400)
	t.equal(push("", "{}", "n1").error, 400)
end)

t.case("with HMAC the time counts, and MD5 does not", function()
	settings({ compat = false })
	local body = '{"app_key":"test","send_to":"ann","message":"{}","nonce":"n1"}'
	local function send(time)
		local signature = aether.crypto.hmac_sha256(SECRET, `{time}.{body}`)
		local headers = { ["content-type"] = "application/json", ["x-signature-timestamp"] = time, ["x-signature-256"] = "sha256=" .. signature }
		return t.route("POST", "/api/v1/im/push", { body = body, headers = headers })
	end
	local now = t.clock.now() // 1000
	t.equal(send(tostring(now - 400)).status, 401)
	t.equal(send(tostring(now - 200)).status, 200)
	t.equal(send(tostring(now - 200)).status, 401)
	t.equal(push("ann", "{}", "n2").error, 1002)
end)

t.case("peers send to each other, and say only what is theirs to say", function()
	local ann, bob = user("ann"), user("bob")
	ann:frame('{"from":"eve","to":"bob","event":1,"data":{"x":2.0}}')
	t.matches(bob:texts()[1], [[^{"from":"ann","to":"bob","event":1,"data":{"x":2%.0},"msg_id":"[^"]+","send_at":1767225600,"conversation_id":"bob"}$]])
	for _, frame in { "null", "[]", "{", '{"to":"bob","event":2,"data":{}}', '{"to":"","data":{}}', '{"to":"bob","data":7}' } do
		ann:frame(frame)
	end
	t.equal({ ann:texts(), bob:texts() }, { {}, {} })
end)

t.case("where the application does not say so they do not", function()
	t.config({ applications = { { app_key = "test", app_secret = "test_secret" } } })
	local ann, bob = user("ann"), user("bob")
	ann:frame('{"to":"bob","event":1,"data":{}}')
	t.equal(bob:texts(), {})
end)

t.case("who is not let in hears why, with 200", function()
	local function refused(query)
		local client = t.dialect("xlvein", { query = query })
		return { client.refused.status, client.refused.json.code }
	end
	t.equal(refused({}), { 200, 400 })
	t.equal(refused({ app_id = "nobody", token = "x" }), { 200, 1001 })
	t.equal(refused({ app_id = "test", token = "x" }), { 200, 1000 })
	t.equal(refused({ app_id = "test", token = token({ sub = "" }) }), { 200, 1000 })
	t.equal(refused({ app_id = "test", token = token({ sub = "ann", exp = t.clock.now() / 1000 - 1 }) }), { 200, 1000 })
end)

t.case("an administrator gets an address that connects", function()
	local admin = { user = "admin", grants = { admin = true } }
	local headers = { host = "hub.example" }
	local function ask(query) return t.route("GET", "/api/v1/im/url", { who = admin, headers = headers, query = query }) end
	local url = ask({ app_id = "test", account = "ann" }).json.url
	local token = string.match(url, "^ws://hub%.example/ws/connect%?app_id=test&token=(.+)$")
	t.equal(t.dialect("xlvein", { query = { app_id = "test", token = token } }).refused, nil)
	t.equal({ ask({ app_id = "x", account = "ann" }).status, ask({ app_id = "test" }).status }, { 404, 400 })
end)

t.case("nothing is kept", function()
	t.equal(t.retention("xlvein.test.ann").history, false)
end)

t.case("others do not reach these channels, whatever they were granted", function()
	local spy = { user = "spy", grants = { subscribe = { "xlvein.test.ann" }, publish = { "xlvein.test.ann" } } }
	t.denied(t.subscribe(spy, "xlvein.test.ann"), "of_xlvein")
	t.denied(t.publish(spy, "xlvein.test.ann", {}), "of_xlvein")
	settings({ native = true })
	t.allowed(t.subscribe(spy, "xlvein.test.ann"))
end)

t.case("accounts have channels of their own, whatever they are called", function()
	assert(address.of("a:b", "c") ~= address.of("a", "b:c"))
	assert(address.of("a", "b.c") ~= address.of("a.b", "c"))
	t.equal(address.of("a", ""), nil)
	local long = string.rep("x", 300)
	t.matches(address.of("a", long), "^xlvein%.a%.sha256%.%x+$")
	assert(address.of("a", long) ~= address.of("a", long .. "x"))
end)

t.case("a frame is read for what it says", function()
	t.equal(frames.read('{"to":"bob"}'), { to = "bob", event = 0, data = "null" })
	t.equal(frames.read('{"data":{ "n":1.0 },"event":1,"to":"b"}'), { to = "b", event = 1, data = '{ "n":1.0 }' })
	for _, bad in { "", "7", '{"to":7}', '{"to":"b","event":1.5}', '{"to":"b","event":"1"}', '{"to":"b","data":[]}' } do
		t.equal(frames.read(bad), nil, bad)
	end
end)
