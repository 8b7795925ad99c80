-- How a key is written: 32 random bytes, so that their SHA-256 keeps them secret, and a beginning by which a leaked one is recognised.

return function(bytes)
	return "aek_" .. aether.crypto.base64.url_encode(bytes)
end
