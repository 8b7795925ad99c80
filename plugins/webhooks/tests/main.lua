local t = aether.test
local hmac = aether.crypto.hmac_sha256
local template = require("../lib/template")

t.use("api-keys")

local admin = { user = "admin", grants = { admin = true } }

local function ask(method, path, body)
	return t.route(method, path, { who = admin, json = body })
end

local function make(webhook)
	local made = ask("POST", "/api/v2/webhooks", webhook)
	t.equal(made.status, 200)
	return made.json.webhook, made.json.secret
end

local function send(url, body, headers)
	local answer = t.route("POST", url, { body = body, headers = headers })
	return { answer.status, answer.json.error and answer.json.error.code, answer.json.error and answer.json.error.message }
end

t.case("the signature is the one that others compute", function()
	local body = '{"repo":"core","n":1}'
	t.equal(hmac(string.rep("0f", 32), body), "e04956ce2ebd93e548bdd087bb01d1783364d5ea9b1b954d31aa7204fc715b5a")
end)

t.case("a template is filled with what stands in the body, exactly", function()
	local body = aether.json.decode(
		'{"repo":{"name":"core"},"n":1234567,"big":9007199254740993,"huge":123456789012345678901,"yes":true,"no":null,"f":1.5,"list":[1],"evil":"{n}","deep":"a.b"}',
		{ null = true }
	)
	local function fill(text) return template.fill(text, body, false) end
	t.equal(fill("git.{repo.name}"), "git.core")
	t.equal(fill("build-{n}"), "build-1234567")
	t.equal(fill("{big}"), "9007199254740993")
	t.equal(fill("{yes}.{no}"), "true.null")
	t.equal(fill("literal"), "literal")
	t.equal(fill("x.{evil}.{n}"), "x.{n}.1234567")
	for _, none in { "{missing}", "{huge}", "{repo}", "{list}", "{list.1}", "{repo.}", "{}", "{repo.name.x}", "{no.x}" } do
		t.equal(fill(none), nil, none)
	end
	t.equal(template.fill("a.{deep}", body, true), nil)
	t.equal(template.fill("a.{deep}", body, false), "a.a.b")
end)

t.case("a webhook is made, read, listed, paused, given a new secret and removed", function()
	local hook, secret = make({ name = "git", channel_template = "git.{repo}" })
	t.matches(secret, "^%x+$")
	t.equal(#secret, 64)
	t.matches(hook.url, "^/api/v2/webhooks/%x+$")
	t.equal({ hook.name, hook.channel_template, hook.active }, { "git", "git.{repo}", true })
	local path = "/api/v2/webhooks/" .. hook.id
	t.equal(ask("GET", path).json.webhook, hook)
	t.equal(#ask("GET", "/api/v2/webhooks").json.webhooks, 1)
	t.equal(ask("POST", "/api/v2/webhooks", { name = "git", channel_template = "x" }).json.error.code, 40902)

	local rotated = ask("POST", path .. "/rotate-secret").json
	assert(rotated.secret ~= secret)
	t.equal(rotated.webhook.url, hook.url)

	t.equal(ask("PATCH", path, { active = false }).json.webhook.active, false)
	t.equal(send(hook.url, "{}"), { 404, 40402, "webhook is inactive" })
	t.equal(ask("DELETE", path).json, { ok = true })
	t.equal(ask("GET", path).status, 404)
	t.equal(send(hook.url, "{}"), { 404, 40402, "webhook not found" })
	make({ name = "git", channel_template = "again" })
end)

t.case("what is wrong with a new webhook is told", function()
	local function wrong(webhook, code, message)
		local answer = ask("POST", "/api/v2/webhooks", webhook).json
		t.equal(answer.error.code, code)
		t.matches(answer.error.message, message)
	end
	wrong({}, 40002, "^name is required$")
	wrong({ name = "x" }, 40002, "^channel_template is required$")
	wrong({ name = 7, channel_template = "x" }, 40003, "name is a text")
	wrong({ name = "x", channel_template = "x", timestamp_window = -1 }, 40003, "timestamp_window")
	wrong({ name = "x", channel_template = "x", key_id = "nobody" }, 40401, "key not found")
	t.denied(t.route("GET", "/api/v2/webhooks"))
end)

t.case("who does not know the secret is refused, whatever the signature looks like", function()
	local hook, secret = make({ name = "git", channel_template = "git" })
	for _, signature in { "", "sha256=", "nonsense", hmac("another", "{}"), "sha256=" .. hmac(secret, "{ }") } do
		t.equal(send(hook.url, "{}", { ["x-signature-256"] = signature }), { 401, 40103, "invalid signature" })
	end
	t.equal(send(hook.url, "{}"), { 401, 40103, "invalid signature" })
	t.equal(ask("GET", `/api/v2/webhooks/{hook.id}/deliveries`).json.deliveries, {})
end)

t.case("a request without what the template wants is refused, and recorded", function()
	local hook, secret = make({ name = "git", channel_template = "git.{repo}" })
	local body = '{"repo":"a.b"}'
	t.equal(send(hook.url, body, { ["x-signature-256"] = hmac(secret, body) }), { 400, 40005, "failed to resolve channel" })
	local delivery = ask("GET", `/api/v2/webhooks/{hook.id}/deliveries`).json.deliveries[1]
	t.equal({ delivery.status, delivery.error_message }, { "failed", "failed to resolve channel" })
end)

t.case("only so many deliveries are kept, the latest", function()
	t.config({ deliveries = 2 })
	local hook, secret = make({ name = "git", channel_template = "{x}" })
	for n = 1, 5 do
		local body = `\{"n":{n}}`
		send(hook.url, body, { ["x-signature-256"] = hmac(secret, body) })
	end
	local kept = ask("GET", `/api/v2/webhooks/{hook.id}/deliveries`).json.deliveries
	t.equal({ #kept, kept[1].number, kept[2].number }, { 2, 5, 4 })
end)

t.case("with a window the time is signed, and nothing is accepted twice", function()
	local hook, secret = make({ name = "git", channel_template = "{missing}", timestamp_window = 60 })
	local function at(offset, body)
		local sent = string.format("%d", t.clock.now() / 1000 + offset)
		return send(hook.url, body, { ["x-signature-timestamp"] = sent, ["x-signature-256"] = hmac(secret, sent .. "." .. body) })[2]
	end
	t.equal(at(0, "{}"), 40005) -- genuine
	t.equal(at(0, "{}"), 40103) -- the same again
	t.equal(at(-59, "{}"), 40005)
	t.equal(at(61, "{}"), 40103)
	t.equal(at(-61, "{}"), 40103)
	t.equal(send(hook.url, "{}", { ["x-signature-256"] = hmac(secret, "{}") })[2], 40103)
	t.clock.advance("61s")
	t.equal(at(-61, "{}"), 40103)
end)

t.case("what is genuine is published as it came, and recorded", function()
	local hook, secret = make({ name = "git", channel_template = "git.{repo}" })
	local body = '{"repo":"core",  "n":1.0}'
	local answer = t.route("POST", hook.url, { body = body, headers = { ["x-signature-256"] = "sha256=" .. hmac(secret, body) } })
	t.equal({ answer.status, answer.json.seq_id, answer.json.channel }, { 200, 1, "git.core" })
	t.equal({ t.published()[1].channels, t.published()[1].text }, { { "git.core" }, body })
	local delivery = ask("GET", `/api/v2/webhooks/{hook.id}/deliveries`).json.deliveries[1]
	t.equal({ delivery.status, delivery.seq_id, delivery.channel }, { "success", 1, "git.core" })
end)

t.case("a webhook with a key goes where its key may, as long as it is good", function()
	local made = ask("POST", "/api/v2/keys", { name = "ci", publish = { "a.*" } }).json.meta
	local hook, secret = make({ name = "ci", channel_template = "{to}", key_id = made.id })
	local function to(channel)
		local body = aether.json.encode({ to = channel })
		return send(hook.url, body, { ["x-signature-256"] = hmac(secret, body) })[1]
	end
	t.equal({ to("a.b.c"), to("b.x"), to("a") }, { 200, 403, 403 })
	ask("DELETE", "/api/v2/keys/" .. made.id)
	t.equal(to("a.b.c"), 403)
end)
