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
	s:join(env:json().room)
	return s:send_message({ id = env.id, route = 'chat.joined', data = env.data })
end)
rt.handle('chat.send', function(s, env)
	local message = env:json()
	local n = said:incr('n')
	rt.send_to_room(s.identity.tenant_id, message.room, 'chat.message', { n = n, from = s.identity.id, text = message.text })
	return s:send_message({ id = env.id, route = 'chat.sent', metadata = { n = tostring(n) } })
end)
";

#[tokio::test]
async fn the_handlers_that_the_readme_shows_do_what_it_says() {
    let readme = std::fs::read_to_string(repository().join("plugins/realtime/README.md")).unwrap();
    let lua = readme.split("```lua\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it shows a script");
    let hub = plan_with("error_route = \"err\"", lua).start();
    let mut people = Vec::new();
    for name in ["alice", "bob"] {
        let bearer = format!("Bearer {}", hub.token_for(name, &[], &[]));
        let mut one = Client::try_open(&hub, "/rt", &[("authorization", &bearer)], None).await.unwrap();
        one.hears(&format!(r#"{{"route":"hello","data":{{"id":"{name}"}}}}"#)).await;
        people.push(one);
    }
    people[0].say(r#"{"route":"chat.send","data":{"to":"bob","text":"hi"}}"#).await;
    people[1].hears(r#"{"route":"chat.message","data":{"from":"alice","text":"hi"}}"#).await;
    people[0].say(r#"{"id":"1","route":"chat.send","data":{"to":"eve","text":"hi"}}"#).await;
    people[0].hears(r#"{"id":"1","route":"err","data":{"code":"failed","message":"not_there"}}"#).await;
    people[0].say(r#"{"route":"metrics.cpu","data":0.50}"#).await;
    for one in &mut people {
        one.hears(r#"{"route":"metrics.cpu","data":0.50}"#).await;
    }
    people[0].say(r#"{"route":"what"}"#).await;
    people[0].hears(r#"{"route":"unknown","data":{"route":"what"}}"#).await;
}

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
