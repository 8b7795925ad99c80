-- A back end's push: what it holds, and whether it is the application's own.

local cfg, crypto, json = aether.config, aether.crypto, aether.json

local push = {}

local FIELDS = { "app_key", "send_to", "message", "nonce", "sign" }
-- As the fields are called in what xlvein says of them.
local NAMES = { app_key = "AppKey", send_to = "SendTo", message = "Message", nonce = "Nonce", sign = "Sign" }

-- Whether the body is JSON, by what it is said to be; anything else is a form, as for xlvein.
function push.is_json(req)
	local kind = string.match(req:header("content-type") or "", "^%s*([^;%s]*)")
	return string.lower(kind) == "application/json"
end

-- The fields of a request, or nil and why not.
function push.read(req)
	local decode = if push.is_json(req) then json.decode else aether.form.decode
	local fields, why = decode(req:text())
	if type(fields) ~= "table" then return nil, why or "the body is no object" end

	local signed_apart = req:header("x-signature-256") ~= nil
	local wrong = {}
	for _, name in FIELDS do
		local value = fields[name]
		if name == "sign" and signed_apart then continue end
		if value == nil or value == "" then
			table.insert(wrong, `Key: '{NAMES[name]}' Error:Field validation for '{NAMES[name]}' failed on the 'required' tag`)
		elseif type(value) ~= "string" or not utf8.len(value) then
			table.insert(wrong, `{name} is a text in UTF-8`)
		end
	end
	if #wrong > 0 then return nil, table.concat(wrong, "\n") end
	return fields
end

-- HMAC-SHA256 of the time and the body as it is: nothing in it can be read in two ways, and an old one is refused.
local function is_signed(app, req)
	local sent = req:header("x-signature-timestamp") or ""
	local seconds = string.match(sent, "^%d+$") and tonumber(sent)
	if not seconds or math.abs(aether.now_ms() / 1000 - seconds) > cfg.window then return false end
	local given = string.lower(string.match(req:header("x-signature-256"), "^%s*(.-)%s*$"))
	given = string.match(given, "^sha256=(.*)$") or given
	return crypto.equal(crypto.hmac_sha256(app.secret, `{sent}.{req:text()}`), given)
end

-- As xlvein's SDK signs. The message is one JSON object and the nonce has no &, so that what is signed can be split in one way only.
local function is_signed_with_md5(app, fields)
	if not app.md5 or string.find(fields.nonce, "&", 1, true) then return false end
	local signed = `app_key={fields.app_key}&message={fields.message}&nonce={fields.nonce}&send_to={fields.send_to}&key=`
	return crypto.equal(string.upper(crypto.md5(signed, app.secret)), fields.sign)
end

function push.is_genuine(app, req, fields)
	if req:header("x-signature-256") then return is_signed(app, req) end
	return is_signed_with_md5(app, fields)
end

return push
