-- The dialect that `fan-out-dialect` measures: what the native one says of a message, put into words by Lua.
aether.dialect("lines", {
	mount = { ws = "/lines" },
	on_open = function(c, req)
		c:subscribe(req.query.channel)
	end,
	encode = function(ev)
		if ev.kind == "subscribed" then return "listening\n" end
		if ev.kind ~= "message" then return nil end
		return `\{"type":"message","channel":"{ev.channel}","seq_id":{ev.offset},"timestamp":{ev.time_ms},"payload":{ev.payload}}\n`
	end,
})
