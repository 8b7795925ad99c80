-- How often. Each limit counts with a limiter of its own; who is too fast hears how long to wait.

local limits = aether.config.limits

-- What a limit counts by: appends to the limiter's key, or answers false if the limit does not concern whoever asks.
local by = {}

function by.ip(key, s)
	table.insert(key, s.ip or "")
end

function by.user(key, s)
	if not s.user then return by.ip(key, s) end -- nobody in particular shares a rate with its address
	table.insert(key, s.tenant or "")
	table.insert(key, s.user)
end

-- A key that `api-keys` knows.
function by.key(key, s)
	if not s.attrs.key then return false end
	table.insert(key, s.attrs.key)
end

function by.channel(key, _, ch)
	table.insert(key, ch.name)
end

local function counting(limit)
	local limiter = aether.limiter({ rate = limit.rate, per = limit.every, burst = limit.burst })
	local sentence = `at most {limit.rate} in {limit.every} s for each {table.concat(limit.per, " and ")}`

	return function(s, ch)
		local key = {}
		for _, kind in limit.per do
			table.insert(key, kind)
			if by[kind](key, s, ch) == false then return nil end
		end
		local ok, retry_ms = limiter:take(key)
		if ok then return nil end
		return aether.deny("rate", sentence, { retry_ms = retry_ms })
	end
end

for at, limit in limits do
	if #limit.per == 0 then error(`limits[{at}].per: who is counted? Say ["user"], ["channel"] or ["ip"]`) end

	if limit.on == "connect" then
		if #limit.per ~= 1 or limit.per[1] ~= "ip" then
			error(`limits[{at}].per: who connects is an address and nobody yet: say ["ip"]`)
		end
		aether.on.connect(counting(limit))
		continue
	end

	local count = counting(limit)
	for _, pattern in limit.channels do
		aether.on[limit.on](pattern, function(s, ch, asked)
			-- Coming back is no reading, and being asked about again after a reload is no subscribing.
			if limit.on ~= "publish" and (asked.resume or asked.again) then return nil end
			return count(s, ch)
		end)
	end
end
