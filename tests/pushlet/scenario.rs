//! Clients written as Pushlet's README and example tell: they need no change.

use std::process::Command;

use super::*;
use crate::real_clients::python;

const LAST: usize = 50;

#[tokio::test]
async fn a_program_in_python_needs_no_change_and_misses_nothing() {
    let Some(home) = python() else { return };
    let hub = open();
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", home).arg(home.join("pushlet_client.py"));
    let mut client = Program::start(command.args([&hub.address.to_string(), &LAST.to_string()]));
    for said in ["subscribed ticks", "commands OK", "events Connection established"] {
        client.until_err(said).await;
    }
    for number in 1..=LAST {
        send(&hub, "ticks", "tick", &format!("tick {number}")).await;
    }
    assert_eq!(client.end().await, Some(0), "{}", client.err());
    for way in ["ws", "sse"] {
        let seen: Vec<String> = client.out().into_iter().filter(|line| line.starts_with(way)).collect();
        assert_eq!(seen, (1..=LAST).map(|number| format!("{way} tick {number}")).collect::<Vec<_>>());
    }
    assert!(client.err().contains("commands tick 1"), "{}", client.err());
}

/// The page of its example: an `EventSource` with listeners by name.
#[tokio::test]
async fn a_page_needs_no_change_and_misses_nothing() {
    let Some(mut page) = Browser::open().await else { return };
    let mut hub = open();
    page.visit(&format!("http://{}/healthz", hub.address)).await;
    page.until("document.body?.innerText ?? ''", |text| text.contains("ok")).await;
    let script = "window.seen = []; window.connected = 0;
        const source = new EventSource('/events?topic=ticks');
        source.addEventListener('connected', () => { window.connected += 1; });
        source.addEventListener('tick', (event) => window.seen.push(event.data)); 0";
    page.eval(script).await;
    page.until("window.connected", |count| count == "1").await;
    for number in 1..=10 {
        send(&hub, "ticks", "tick", &number.to_string()).await;
    }
    page.until("window.seen.length", |count| count == "10").await;
    let address = hub.address;
    hub.stop();
    hub.config.server.addr = address;
    hub.restart();
    for number in 11..=20 {
        send(&hub, "ticks", "tick", &number.to_string()).await;
    }
    page.until("window.seen.length", |count| count.parse::<u64>().is_ok_and(|count| count >= 20)).await;
    let seen: Vec<String> = serde_json::from_value(page.eval("window.seen").await).unwrap();
    assert_eq!(seen, (1..=20).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn on_an_address_of_its_own_every_path_of_its_examples_is_there() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _hub = open_with(&format!("listen = \"{address}\"\nws = \"/ws\"\n"));
    let mut line = Line(RawWs::at(address, "/ws?topic=news").await);
    assert!(line.hears().await.contains("\"event\":\"connected\""));
    let mut stream = SseClient::open(address, "/events?topic=news", None).await.unwrap();
    stream.expect("connected").await;
    let answer = Http::connect(address, None).await.get("/send?topic=news&message=hello").await;
    assert_eq!((answer.status, answer.text()), (200, "Message sent"));
    assert_eq!(push(&line.hears().await).1["data"], "hello");
    assert_eq!(stream.expect("message").await.data, "hello");
}
