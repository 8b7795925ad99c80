//! nats-server, as Debian has it: subscribers over WebSocket, publishers over its own protocol, each waiting for its `+OK`.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use aether::cli::bench::account::Account;
use aether::cli::bench::target::{Answer, BINARY, Step, Target, Transport, frame, upgrade};
use anyhow::Context;

use super::place::{Place, end, free_port, wait_for};

pub struct Nats {
    publishers: SocketAddr,
    subscribers: SocketAddr,
    account: Account,
    child: Child,
    _place: Place,
}

impl Nats {
    pub fn start() -> anyhow::Result<Nats> {
        let place = Place::new("nats")?;
        let (port, websocket) = (free_port()?, free_port()?);
        let file = place.dir.join("nats.conf");
        std::fs::write(
            &file,
            format!(
                "host: \"127.0.0.1\"\nport: {port}\nping_interval: \"10m\"\nmax_connections: 200000\n\
                 websocket {{\n  host: \"127.0.0.1\"\n  port: {websocket}\n  no_tls: true\n  compression: false\n}}\n"
            ),
        )?;
        let mut command = Command::new("nats-server");
        command.arg("-c").arg(&file).arg("-l").arg(place.dir.join("log"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("nats-server")?;
        let [publishers, subscribers] = [port, websocket].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let account = Account::Processes(child.id());
        let nats = Nats { publishers, subscribers, account, child, _place: place };
        wait_for(publishers)?;
        wait_for(subscribers)?;
        Ok(nats)
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

impl Target for Nats {
    fn name(&self) -> String {
        "NATS".into()
    }

    fn durability(&self) -> String {
        "nothing is kept".into()
    }

    fn subscribers_at(&self) -> SocketAddr {
        self.subscribers
    }

    fn publishers_at(&self) -> SocketAddr {
        self.publishers
    }

    fn account(&self) -> &Account {
        &self.account
    }

    fn channel(&self, run: u64, number: usize) -> String {
        format!("bench.{run}.{number}")
    }

    fn subscribe(&self, _transport: Transport, channel: &str) -> Vec<Step> {
        let asked = format!("CONNECT {{\"verbose\":false}}\r\nSUB {channel} 1\r\nPING\r\n");
        vec![Step::new(upgrade("/"), b"\r\n\r\n"), Step::new(frame(BINARY, asked.as_bytes()), b"PONG\r\n")]
    }

    fn greet(&self) -> Vec<Step> {
        vec![Step::new("CONNECT {\"verbose\":true}\r\nPING\r\n", b"PONG\r\n")]
    }

    fn publish(&self, channel: &str, payloads: &[String], request: &mut Vec<u8>) {
        for payload in payloads {
            request.extend_from_slice(format!("PUB {channel} {}\r\n{payload}\r\n", payload.len()).as_bytes());
        }
    }

    fn answer(&self, bytes: &[u8]) -> Answer {
        // It asks once in a while whether we are there, and asks again before it gives up on us: a run is shorter.
        let answer: String = String::from_utf8_lossy(bytes).replace("PING\r\n", "");
        match answer.as_str() {
            "+OK\r\n" => Answer::Yes,
            said if said.ends_with("\r\n") => Answer::No,
            _ => Answer::More,
        }
    }
}
