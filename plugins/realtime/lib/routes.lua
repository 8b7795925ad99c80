-- Who handles a message: the handler of its route, else of the longest prefix of it, else the fallback; around it the middleware.

local routes = {}
local exact, prefixes, layers, last = {}, {}, {}, {}
local sealed = {}

-- Handlers and listeners are registered while a file loads: another VM would not know of what comes later.
function routes.check_open(what)
	if sealed.yes then error(`rt.{what}: register it while the file loads, not in a hook`, 4) end
end

local function check(name, handler, what)
	routes.check_open(what)
	if type(name) ~= "string" then error(`rt.{what}: expected a route and a function, got a {type(name)}`, 3) end
	if type(handler) ~= "function" then error(`rt.{what}: expected a function, got a {type(handler)}`, 3) end
end

function routes.handle(route, handler)
	check(route, handler, "handle")
	if exact[route] then error(`rt.handle: {route} has a handler already`, 2) end
	exact[route] = handler
end

function routes.prefix(prefix, handler)
	check(prefix, handler, "prefix")
	for _, other in prefixes do
		if other.prefix == prefix then error(`rt.prefix: {prefix} has a handler already`, 2) end
	end
	table.insert(prefixes, { prefix = prefix, handler = handler })
	table.sort(prefixes, function(a, b) return #a.prefix > #b.prefix end)
end

function routes.fallback(handler)
	check("", handler, "fallback")
	if last.handler then error("rt.fallback: there is one already", 2) end
	last.handler = handler
end

-- The first that is registered is the outermost: layer(s, env, next).
function routes.use(layer)
	check("", layer, "use")
	table.insert(layers, layer)
end

-- From the first connection on nothing is registered any more.
function routes.seal()
	sealed.yes = true
end

function routes.find(route)
	if exact[route] then return exact[route] end
	for _, entry in prefixes do
		if string.sub(route, 1, #entry.prefix) == entry.prefix then return entry.handler end
	end
	return last.handler
end

-- Whatever the handler returns; nil and "unknown_route" if there is none.
function routes.run(s, env, from)
	from = from or 1
	local layer = layers[from]
	if layer then
		return layer(s, env, function() return routes.run(s, env, from + 1) end)
	end
	local handler = routes.find(env.route)
	if not handler then return nil, "unknown_route" end
	return handler(s, env)
end

return routes
