//! What clients of other systems say, through the plugins that speak their protocols: a frame a line. Whatever it is, it is
//! understood, answered or refused, in the dialect's own words; no hook breaks.

#![no_main]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use aether::kernel::dialect::{Act, Dialects, Event, Heard, Memory, Mount, Speech, Way};
use aether::kernel::hooks::{Client, ConnectRequest, Farewell, Hooks, Identity};
use aether::kernel::message::{Draft, Epoch, Position, Publication};
use aether::plugins::{Host, Spoken};
use aether_fuzz::{Stand, client, host, lines, not_broken, repository};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value as Json, json};

/// Channels, votes and nonces pile up: after so many inputs of a dialect it begins anew.
const INPUTS: usize = 3000;
const LISTENER: &str = "127.0.0.1:9";
/// `user_1` of the application `test`, until 2100.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjQxMDI0NDQ4MDAsImlzcyI6IlRpbWVUb2tlbiIsInN1YiI6InVzZXJfMSJ9.X6gEToasI2x5cRxK-8N8rBI3iWLAg9QMAIoSFN_3o38";

/// A system whose clients talk to us.
struct System {
    host: Arc<Host>,
    stand: Stand,
    mount: Mount,
    request: ConnectRequest,
    inputs: usize,
}

thread_local! {
    static SYSTEMS: RefCell<[Option<System>; 5]> = const { RefCell::new([const { None }; 5]) };
}

fuzz_target!(|bytes: &[u8]| {
    // The first byte says which system, and whether frames are binary.
    let Some((first, rest)) = bytes.split_first() else { return };
    let which = usize::from(first & 7) % 5;
    SYSTEMS.with_borrow_mut(|systems| {
        let system = systems[which].get_or_insert_with(|| system(which));
        system.hear(first & 8 != 0, rest);
        system.inputs += 1;
        if system.inputs == INPUTS {
            systems[which] = None;
        }
    });
});

fn system(which: usize) -> System {
    let addresses = |gorge: bool| json!({"client": [LISTENER], "admin": ["127.0.0.1:10"], "gorge": gorge});
    let at_home = |name, config: Json, path, query: &[(&str, &str)]| (name, config, path, pairs(query), None);
    let (name, config, path, query, listener) = match which {
        0 => at_home(
            "pushlet",
            json!({"topics": ["*"], "origins": ["*"], "open": true}),
            "/pushlet/ws",
            &[("topic", "a")],
        ),
        1 => at_home("realtime", json!({}), "/rt", &[("as", "acme/ann")]),
        2 => {
            let applications = json!([{"app_key": "test", "app_secret": "test_secret", "peer": true}]);
            let config = json!({"applications": applications});
            at_home("xlvein", config, "/ws/connect", &[("app_id", "test"), ("token", TOKEN)])
        }
        gorge => ("aphlict", addresses(gorge == 4), "/", Vec::new(), Some(LISTENER)),
    };
    let scripts = (name == "realtime").then(|| repository().join("tests/realtime"));
    let host = host(&[("jwt-auth", json!({})), (name, config)], scripts);
    let listener: Option<SocketAddr> = listener.map(|text| text.parse().expect("an address"));
    let mount = Spoken(host.clone()).mount(listener, path).expect("it is spoken there");
    let request = ConnectRequest {
        dialect: mount.tongue.name(),
        transport: "ws",
        method: "GET".into(),
        path: path.into(),
        query,
        ..ConnectRequest::default()
    };
    System { stand: Stand::new(host.clone()), host, mount, request, inputs: 0 }
}

fn pairs(query: &[(&str, &str)]) -> Vec<(String, String)> {
    query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl System {
    fn hear(&self, binary: bool, frames: &[u8]) {
        let asked = self.stand.drive(self.host.connect(&self.request));
        let identity: Identity = not_broken(asked, b"").expect("it is let in");
        let client = Arc::new(Client { dialect: self.request.dialect, ..(*client(identity)).clone() });
        let mut memory: Memory = None;
        self.said(&client, Heard::Came(self.request.clone()), &mut memory, b"");
        for frame in lines(frames) {
            // A transport hands on no text that is none.
            if binary || std::str::from_utf8(&frame).is_ok() {
                let heard = Heard::Said(Speech { bytes: frame.clone(), binary });
                self.said(&client, heard, &mut memory, &frame);
            }
        }
        let why = Farewell { cause: "client", code: None, reason: String::new() };
        self.mount.tongue.gone(&client, memory, &why);
    }

    fn said(&self, client: &Arc<Client>, heard: Heard, memory: &mut Memory, frame: &[u8]) {
        let acts = self.stand.drive(self.mount.tongue.hear(client, heard, memory));
        for act in not_broken(acts, frame).unwrap_or_default() {
            self.perform(client, act, frame);
        }
    }

    /// The same as the connection would, as far as the dialect's words go.
    fn perform(&self, client: &Arc<Client>, act: Act, frame: &[u8]) {
        let at = Position { epoch: Epoch(1), offset: 1 };
        match act {
            Act::Publish { draft, tag } => {
                self.tell(&draft, frame);
                let outcome = self.stand.drive(self.stand.hub.publish(client, draft));
                if let Ok(receipt) = outcome {
                    self.say(&Event::Published { receipt: &receipt, tag: &tag }, frame);
                }
            }
            Act::Subscribe { channel, tag, .. } => {
                let _ = self.stand.drive(self.host.subscribe(client, &channel));
                self.say(&Event::Subscribed { channel: &channel, at, tag: &tag }, frame);
            }
            Act::Unsubscribe { channel, tag } => self.say(&Event::Unsubscribed { channel: &channel, tag: &tag }, frame),
            Act::Fail { code, why, tag } => {
                let error =
                    Event::Error { what: "frame", code: &code, why: &why, decision: "d", retry_ms: Some(5), tag: &tag };
                self.say(&error, frame);
            }
            Act::Close { code, reason } => {
                self.say(&Event::Closing { code, reason: &reason, retry_ms: Some(5) }, frame)
            }
            Act::Authenticate { tag, .. } => self.say(&Event::Authenticated { tag: &tag }, frame),
            Act::Reply(_) | Act::Replay { .. } | Act::Speak { .. } => {}
        }
    }

    /// Everybody who listens hears what was published.
    fn tell(&self, draft: &Draft, frame: &[u8]) {
        let message = draft.message.clone();
        let publication = Publication { offset: 1, time: 1, expires: None, once: draft.once, message };
        self.say(&Event::Message { channel: &draft.channel, epoch: Epoch(1), publication: &publication }, frame);
        // And what others publish there, which need not be of its form.
        let mut other = publication.clone();
        other.message.payload = Bytes::from_static(b"[1,{\"a\":null}]");
        self.say(&Event::Message { channel: &draft.channel, epoch: Epoch(1), publication: &other }, frame);
    }

    fn say(&self, event: &Event<'_>, frame: &[u8]) {
        let way = Way { transport: self.mount.transport, style: None };
        let said = self.mount.tongue.say(way, event);
        assert!(said.is_ok(), "it has no words for what {} led to", String::from_utf8_lossy(frame));
    }
}
