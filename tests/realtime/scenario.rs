//! A client as users of that framework write one, with a library that nobody here wrote.

use std::process::Command;

use super::*;

const CHAT: &str = "
local rt = require('@realtime')
local said = aether.shared('said')
rt.use(rt.recovery())
rt.use(rt.timeout(2))
rt.use(rt.logger())
rt.handle('chat.join', function(s, env)
	s:join(env.data:json().room)
	return s:send_message({ id = env.id, route = 'chat.joined', data = env.data })
end)
rt.handle('chat.send', function(s, env)
	local message = env.data:json()
	local n = said:incr('n')
	rt.send_to_room(s.identity.tenant_id, message.room, 'chat.message', { n = n, from = s.identity.id, text = message.text })
	return s:send_message({ id = env.id, route = 'chat.sent', metadata = { n = tostring(n) } })
end)
";

#[tokio::test]
async fn two_people_chat_with_websockets_for_python() {
    let Some(home) = crate::real_clients::python() else { return };
    let hub = plan_with("", CHAT).start();
    let mut people = Vec::new();
    for name in ["alice", "bob"] {
        let script = home.join("realtime_client.py");
        let token = hub.token_for(name, &[], &[]);
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", home).arg(script).args([&hub.address.to_string(), &token, name, "20"]);
        people.push(Program::start(&mut command));
    }
    let mut heard = Vec::new();
    for person in &mut people {
        assert_eq!(person.end().await, Some(0), "{}", person.err());
        heard.push(person.out());
    }
    assert_eq!(heard[0].len(), 40, "{heard:?}");
    assert_eq!(heard[0], heard[1], "both heard the same in the same order");
    for name in ["alice", "bob"] {
        let own: Vec<_> = heard[0].iter().filter(|line| line.contains(name)).collect();
        let wanted: Vec<_> = (0..20).map(|n| format!("{name} message {n} of {name} ü")).collect();
        assert_eq!(own, wanted.iter().collect::<Vec<_>>());
    }
}
