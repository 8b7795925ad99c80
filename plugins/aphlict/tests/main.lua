-- What is posted, and who hears it.
local t = aether.test

local ADMIN, CLIENT = "127.0.0.1:22281", "127.0.0.1:22280"

local function post(body, options)
	local request = table.clone(options or {})
	request.listen, request.body = ADMIN, body
	return t.route("POST", "/", request)
end

local function browser(path)
	return t.dialect("aphlict", { path = path or "/ws/", listen = CLIENT })
end

local function subscribe(client, ...)
	client:frame(aether.json.encode({ command = "subscribe", data = aether.json.array({ ... }) }))
end

local function fingerprint()
	return post('{"subscribers":[]}').json.fingerprint
end

t.case("a message reaches each connection once, as it was posted, with the fingerprint of the node", function()
	local ann, bob = browser(), browser()
	subscribe(ann, "PHID-1", "PHID-2")
	subscribe(bob, "PHID-3")
	local receipt = post('{"type":"notification","n":9007199254740993,"subscribers":["PHID-1","PHID-2","PHID-1"]} \n')
	t.equal(receipt.status, 200)
	t.equal(
		ann:texts(),
		{ `\{"type":"notification","n":9007199254740993,"subscribers":["PHID-1","PHID-2","PHID-1"],"touched":["{receipt.json.fingerprint}"]}` }
	)
	t.equal(bob:texts(), {})
end)

t.case("instances share nothing", function()
	local acme, default = browser("/a/b/~ac/me/~z"), browser("/ws/~/")
	subscribe(acme, "PHID-1")
	subscribe(default, "PHID-1")
	post('{"subscribers":["PHID-1"],"to":"acme"}', { query = { instance = "acme" } })
	post('{"subscribers":["PHID-1"],"to":"default"}', { query = { instance = "" } })
	t.equal({ #acme:texts(), #default:texts() }, { 1, 1 })
	t.matches(acme.sent[1].bytes, '"to":"acme"')
	t.matches(default.sent[1].bytes, '"to":"default"')
end)

t.case("what is no notification is 400, and nobody hears of it", function()
	for _, body in { "", "null", "[]", "7", "{", "{}", '{"subscribers":null}', '{"subscribers":{}}', '{"subscribers":"PHID-1"}', '{"subscribers":["a",7]}', '{"subscribers":[["a"]]}' } do
		t.equal({ post(body).status, post(body).body }, { 400, "" }, body)
	end
	t.equal(t.published(), {})
end)

t.case("what a node has touched comes back to nothing, and what was here before too", function()
	local me = fingerprint()
	post(`\{"subscribers":["a"],"touched":["x","{me}"]}`)
	post('{"subscribers":["a"],"uniqueID":"1","touched":["x"]}')
	post('{"subscribers":["a"],"uniqueID":"1","touched":["x","y"]}')
	post('{"subscribers":["a"],"uniqueID":"2","touched":["x"]}')
	post('{"subscribers":["a"],"uniqueID":"1"}', { query = { instance = "other" } })
	local heard = {}
	for _, said in t.published() do
		table.insert(heard, said.text)
	end
	t.equal(heard, {
		`\{"subscribers":["a"],"uniqueID":"1","touched":["x","{me}"]}`,
		`\{"subscribers":["a"],"uniqueID":"2","touched":["x","{me}"]}`,
		`\{"subscribers":["a"],"uniqueID":"1","touched":["{me}"]}`,
	})
end)

t.case("what publishers say twice is said twice, and what an old node passes on without an id once", function()
	for _ = 1, 2 do post('{"subscribers":["a"]}') end
	t.equal(#t.published(), 2)
	post('{"subscribers":["a"],"x":"日本","touched":["A"]}')
	post('{"x":"\\u65e5\\u672c","touched":["A","B"],"subscribers":["a"]}')
	post('{"subscribers":["a"],"x":"日本","touched":["C"]}')
	t.equal(#t.published(), 4)
	t.clock.advance("11s")
	post('{"subscribers":["a"],"x":"日本","touched":["A"]}')
	t.equal(#t.published(), 5)
end)

t.case("a page publishes nothing", function()
	t.equal(post('{"subscribers":["a"]}', { headers = { origin = "https://evil.example" } }).status, 403)
end)

t.case("peers are told, in an order, and once they are known only if they have not touched it", function()
	t.config({ peers = { "http://10.0.0.2:22281" } })
	t.http.stub("POST", "http://10.0.0.2:22281/*", { json = { fingerprint = "B" } })
	post('{"subscribers":["a"]}', { query = { instance = "a b" } })
	t.clock.advance("1s")
	local call = t.http.calls()[1]
	t.equal(call.url, "http://10.0.0.2:22281/?instance=a%20b")
	t.equal({ #call.json.uniqueID, #call.json.touched, call.json.subscribers }, { 32, 1, { "a" } })
	post('{"subscribers":["a"],"uniqueID":"1","touched":["B"]}')
	t.clock.advance("2s")
	t.equal(#t.http.calls(), 1)
end)

t.case("a peer that was away is told when it is back, and not of what is too old", function()
	t.config({ peers = { "http://10.0.0.2:22281" } })
	local away, told = true, {}
	t.http.stub("POST", "http://10.0.0.2:22281/*", function(req)
		if away then return { status = 502 } end
		table.insert(told, req.json.n)
		return { json = { fingerprint = "B" } }
	end)
	post('{"subscribers":["a"],"n":1}')
	t.clock.advance("50s")
	post('{"subscribers":["a"],"n":2}')
	post('{"subscribers":["a"],"n":3}')
	t.clock.advance("15s")
	away = false
	t.clock.advance("3s")
	post('{"subscribers":["a"],"n":4}')
	t.clock.advance("1s")
	t.equal(told, { 2, 3, 4 })
end)

t.case("the status has its members in their order", function()
	subscribe(browser(), "a")
	post('{"subscribers":["a"]}')
	t.clock.advance("2s")
	local status = t.route("GET", "/status/", { listen = ADMIN })
	t.equal(
		status.body,
		'{"instance":"default","uptime":2000,"clients.active":1,"clients.total":1,"messages.in":1,"messages.out":1,"version":7,"history.size":1,"history.age":2000}'
	)
	t.clock.advance("1m")
	t.matches(t.route("PUT", "/status/", { listen = ADMIN }).body, '"history.size":0,"history.age":null}$')
	t.config({ gorge = true })
	t.matches(t.route("GET", "/status/", { listen = ADMIN }).body, '"version":8')
	t.equal(t.route("GET", "/healthz", { listen = ADMIN }).status, 200)
end)

t.case("everything else is an empty 404 or 405", function()
	for path, status in { ["/"] = 405, ["/status"] = 404, ["/healthz"] = 404, ["/a/b"] = 404 } do
		local answer = t.route("GET", path, { listen = ADMIN })
		t.equal({ answer.status, answer.body }, { status, "" }, path)
	end
end)

t.case("frames that make no sense change nothing", function()
	local ann = browser()
	subscribe(ann, "a")
	for _, frame in { "null", "[]", "{", "7", '"x"', "{}", '{"command":null}', '{"command":"subscribe"}', '{"command":"subscribe","data":null}', '{"command":"subscribe","data":{"a":1}}', '{"command":"unsubscribe","data":7}', '{"command":"constructor"}' } do
		ann:frame(frame)
	end
	ann:frame("\255\254", "binary")
	ann:frame('{"command":"ping","data":7}')
	t.equal(ann:texts(), { '{"type":"pong"}' })
	post('{"subscribers":["a"]}')
	t.equal(#ann:texts(), 1)
	ann:frame('{"command":"unsubscribe","data":["a"]}')
	post('{"subscribers":["a"]}')
	t.equal(ann:texts(), {})
end)

t.case("a replay is of the last minute, whatever a client asks for", function()
	local ann = browser()
	subscribe(ann, "a", "b")
	for n = 1, 3 do
		post(`\{"subscribers":["a","b"],"n":{n}}`)
		t.equal(#ann:texts(), 1)
		t.clock.advance("25s")
	end
	for age, count in { ["1e12"] = 2, ["60000"] = 2, ["30000"] = 1, ["0"] = 2, ["-1"] = 0, ["null"] = 2, ['"x"'] = 0 } do
		ann:frame(`\{"command":"replay","data":\{"age":{age}}}`)
		t.equal(#ann:texts(), count, age)
		t.clock.advance("1ms")
	end
	for _ = 1, 20 do ann:frame('{"command":"replay"}') end
	assert(#ann:texts() < 20, "there is a limit")
end)

t.case("other sessions have no way to its channels, unless they are opened", function()
	local everything = { user = "eve", grants = { subscribe = aether.patterns({ "*" }) } }
	t.denied(t.subscribe(everything, "aphlict.default.a"), "aphlict")
	t.denied(t.history(everything, "aphlict.default.a"), "aphlict")
	t.denied(t.publish({ user = "eve", grants = { publish = aether.patterns({ "*" }) } }, "aphlict.default.a", {}), "aphlict")
	t.config({ open = true })
	t.allowed(t.subscribe(everything, "aphlict.default.a"))
	t.denied(t.subscribe({ user = "eve" }, "aphlict.default.a"))
end)

t.case("a channel's name tells all instances and ids apart", function()
	local instance = require("../lib/instance")
	local names = {}
	for _, name in { "default", "a.b", "a", "a b", "", "~", string.rep("x", 31), string.rep("x", 32), "日本" } do
		for _, id in { "", "a", "a.b", "b.a", string.rep("y", 63), string.rep("y", 64), "constructor", "日本" } do
			local channel = instance.channel(instance.of_query({ instance = name }).tenant, id)
			assert(#channel <= 128 and string.match(channel, "^aphlict%.[%w_-]+%.[%w_-]+$"), channel)
			-- An empty instance is the default one.
			if name ~= "" then
				assert(not names[channel], channel)
				names[channel] = true
			end
		end
	end
end)
