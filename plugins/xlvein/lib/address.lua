-- The channel of an account. xlvein joins the two by a colon, so that the account c of a:b is the account b:c of a; here they stay apart.

local address = {}

-- nil for the empty account, which is nobody. A name has an end, so a long account has its digest there.
function address.of(app_key, account)
	if account == "" then return nil end
	local name = aether.channel.name
	return name("xlvein", app_key, account) or name("xlvein", app_key, "sha256", aether.crypto.sha256(account))
end

return address
