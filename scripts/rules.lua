-- Your rules. They run after the plugins, and every file in this directory is loaded.
--
-- A rule answers aether.allow(), aether.deny("code", "a sentence for people"), or nil for "no opinion".
-- Any deny wins, else any allow, else it is a no: what you do not open stays closed. A rule that breaks denies.

-- Who may connect without showing a credential? Here: everybody, as nobody in particular, with no rights of its own.
-- (A credential that no plugin knew gets no answer here, so it is refused.)
aether.on.connect(function(req)
	if not req:bearer() then return aether.allow() end
	return nil
end)

-- Anybody may listen to what is below `public`, and read what was said there before.
local function open() return aether.allow() end

aether.on.subscribe("public.*", open)
aether.on.history("public.*", open)

-- Other rules look like this. `s` is who asks, `ch` the channel with what {room} stood for, `msg` the message.
--
-- aether.on.publish("room.{room}", function(s, ch, msg)
-- 	if not s.user then return aether.deny("sign_in", "sign in before you write here") end
-- 	if msg.size > 4096 then return aether.deny("too_long", "at most 4096 bytes") end
-- 	return aether.allow()
-- end)
