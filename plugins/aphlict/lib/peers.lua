-- The other nodes. What they cannot be told now they are told when they answer again.

local cfg, log = aether.config, aether.log
local own, waiting = aether.shared("aphlict"), aether.shared("aphlict_waiting")
local lost = aether.metrics.counter("lost_total", { help = "Messages that a peer was not told, because it was away for too long" })
local peers = {}

local TIMEOUT = "1s"
-- Of one peer; beyond, the oldest go.
local MOST_WAITING = 4096
-- Whoever comes back later has missed it: browsers ask for no more either.
local PATIENCE = 60 * 1000
-- What one turn may take of the time that a timer has.
local TURN, MOST_PER_TURN = 1500, 100

local function escaped(text)
	return (string.gsub(text, "[^%w_.-]", function(char) return string.format("%%%02X", string.byte(char)) end))
end

-- Whether there is nothing more to do, and else why.
local function post(peer, item)
	local res, why = aether.http.post(`{peer}/?instance={escaped(item.instance)}`, {
		body = item.text,
		headers = { ["content-type"] = "application/json" },
		timeout = TIMEOUT,
	})
	if not res then return false, why end
	if res.status ~= 200 then
		-- It will not think better of what it has read.
		if res.status >= 400 and res.status < 500 then
			log.warn("a peer refuses a message", { peer = peer, status = res.status })
			return true
		end
		return false, `it answers {res.status}`
	end
	local receipt = res:json()
	if type(receipt) == "table" and type(receipt.fingerprint) == "string" then
		own:set({ "fingerprint of", peer }, receipt.fingerprint)
	end
	return true
end

local function lose(peer, why)
	lost:inc()
	log.warn("a peer misses a message", { peer = peer, why = why })
end

local function wait(peer, item)
	local good, count = pcall(waiting.push, waiting, { "rest", peer }, item)
	if not good then return lose(peer, "it is too large to wait") end
	if count > MOST_WAITING and waiting:pop({ "rest", peer }) then lose(peer, "too many wait") end
end

local function is_away(peer)
	return own:get("away", peer)
end

local function went_away(peer, why)
	if own:set({ "away", peer }, true, { if_absent = true }) then
		log.warn("a peer does not answer", { peer = peer, why = why })
	end
end

local function tell(peer, item)
	local done, why = post(peer, item)
	if done then return end
	went_away(peer, why)
	wait(peer, item)
end

-- Tells those that have not touched it.
function peers.tell(instance, said)
	local item = { instance = instance.name, text = said.text, at = aether.now_ms() }
	if cfg.full_mesh and #said.touched > 1 then return end
	for _, peer in cfg.peers do
		local known = own:get("fingerprint of", peer)
		local needs = not (known and table.find(said.touched, known))
		-- In the order in which they came: nothing overtakes those that wait.
		if needs and (is_away(peer) or not aether.errand(tell, peer, item)) then wait(peer, item) end
	end
end

-- One turn for those that wait for a peer.
function peers.catch_up(peer)
	local began = aether.now_ms()
	for _ = 1, MOST_PER_TURN do
		if aether.now_ms() - began > TURN then return end
		-- The one that it was last asked about keeps its place.
		local item = waiting:get("next", peer) or waiting:pop({ "rest", peer })
		if not item then
			if is_away(peer) then
				own:set({ "away", peer }, nil)
				log.info("a peer answers again", { peer = peer })
			end
			return
		end
		if began - item.at > PATIENCE then
			lose(peer, "it was away for too long")
		else
			local done, why = post(peer, item)
			if not done then
				went_away(peer, why)
				waiting:set({ "next", peer }, item)
				return
			end
		end
		waiting:set({ "next", peer }, nil)
	end
end

return peers
