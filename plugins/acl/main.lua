-- Who may what where, as a table. Rules stand in the settings, or in a script that calls what `require("@acl")` gives.

local VERBS = { "subscribe", "publish", "history" }
local KNOWN = "subscribe, publish, history, only"

-- `role = "mod"`, `role = { "mod", "shop" }`, or the same as `roles`.
local function has_role(attrs, wanted)
	for _, held in { attrs.role or false, attrs.roles or false } do
		if held == wanted or (type(held) == "table" and table.find(held, wanted)) then return true end
	end
	return false
end

-- Turns one entry of a list into a question about whoever asks; or nil and what is wrong with it.
local function who(entry, pattern)
	if type(entry) ~= "string" or entry == "" then return nil, `expected a role, got {if entry == "" then "an empty text" else `a {type(entry)}`}` end
	if entry == "*" then return function() return true end end

	local user = string.match(entry, "^user:(.+)$")
	if not user then return function(s) return has_role(s.attrs, entry) end end
	if user == "*" then return function(s) return s.user ~= nil end end

	local capture = string.match(user, "^{([%w_]+)}$")
	if not capture then return function(s) return s.user == user end end
	if not string.find(pattern, user, 1, true) then return nil, `{entry}: there is no {user} in the pattern` end
	return function(s, ch) return s.user ~= nil and s.user == ch[capture] end
end

-- Whether any of a list's entries means whoever asks.
local function anyone(list, pattern)
	if type(list) ~= "table" then return nil, `expected a list of roles, got a {type(list)}` end
	local questions = {}
	for at, entry in list do
		if type(at) ~= "number" then return nil, `expected a list of roles, got the key {at}` end
		local question, why = who(entry, pattern)
		if not question then return nil, why end
		table.insert(questions, question)
	end
	return function(s, ch)
		for _, question in questions do
			if question(s, ch) then return true end
		end
		return false
	end
end

-- What is wrong with a table is told at the line of whoever wrote it: `level` calls away.
local function rules(on, rows, level)
	local function wrong(pattern, why) error(`{pattern}: {why}`, level + 2) end

	local sorted = {}
	for pattern in rows do
		if type(pattern) ~= "string" then wrong(tostring(pattern), "expected a channel pattern") end
		table.insert(sorted, pattern)
	end
	table.sort(sorted) -- a table has no order, and every thread must register the same

	for _, pattern in sorted do
		local row = rows[pattern]
		if type(row) ~= "table" then wrong(pattern, `expected a table with {KNOWN}, got a {type(row)}`) end
		for key in row do
			if key ~= "only" and not table.find(VERBS, key) then wrong(pattern, `{key} is not known here: it takes {KNOWN}`) end
		end
		for _, verb in VERBS do
			local list = row[verb]
			if verb == "history" and list == nil then list = row.subscribe end
			if list == nil then list = {} end
			local means, why = anyone(list, pattern)
			if not means then wrong(pattern, `{verb}: {why}`) end

			local listed = table.concat(list, ", ")
			on[verb](pattern, function(s, ch)
				if means(s, ch) then return aether.allow() end
				-- A plain false: the decision then names the line of the table, and not this one.
				if row.only then return false, `{pattern}: {verb} is for {if listed == "" then "nobody" else listed}` end
				return nil
			end)
		end
	end
end

rules(aether.on, aether.config.rules, 0)

-- `acl.rules(aether.on, { ["order.*"] = { subscribe = { "staff" } } })` in a script: the rules are that script's own.
aether.export({
	rules = function(on, rows)
		if type(on) ~= "table" or type(rows) ~= "table" then
			error("say acl.rules(aether.on, { [pattern] = { subscribe = { roles }, .. } })", 2)
		end
		rules(on, rows, 2)
	end,
})
