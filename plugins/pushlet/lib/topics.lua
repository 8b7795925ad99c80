-- Topics, which are any text, and the channels that stand for them.

local cfg = aether.config
local topics = { global = "pushlet.global" }

-- The channel of a topic; or nil and why there is none.
function topics.channel(topic)
	if topic == "" then return nil, "a topic is missing" end
	if not utf8.len(topic) then return nil, "a topic is UTF-8" end
	local channel = aether.channel.name("pushlet", "topic", topic)
	if not channel then return nil, "the topic is too long" end
	return channel
end

-- The topic that a channel stands for; Pushlet called everybody's `global`.
function topics.of(channel)
	return aether.channel.parts(channel)[3] or "global"
end

-- What a URL asks for, if anything.
function topics.asked(query)
	local topic = query.topic
	return if topic == "" or topic == "/" then nil else topic
end

function topics.is_open(channel)
	if channel == topics.global then return #cfg.topics > 0 end
	local topic = topics.of(channel)
	for _, open in cfg.topics do
		local prefix = string.match(open, "^(.*)%*$")
		if topic == open or (prefix and string.sub(topic, 1, #prefix) == prefix) then return true end
	end
	return false
end

return topics
