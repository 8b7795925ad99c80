//! What back ends of other systems post: notifications of Aphlict and gorge-notification, pushes of xlvein, forms of Pushlet.
//! Whatever it is, it is answered; no hook breaks; and what Aphlict passes on says what came in.

#![no_main]

use std::cell::RefCell;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use aether::kernel::hooks::{Client, ConnectRequest};
use aether::kernel::hub::Receipt;
use aether::kernel::message::{ChannelName, Draft, Epoch};
use aether::kernel::pattern::Patterns;
use aether::kernel::policy::Ack;
use aether::plugins::{Host, Publishing, Routed, Said, Visit, World};
use aether_fuzz::{Open, Stand, host, not_broken};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value as Json, json};

/// Notifications and nonces pile up: after so many inputs of a system it begins anew.
const INPUTS: usize = 3000;
const ADMIN: &str = "127.0.0.1:10";

/// A system whose back ends post to us.
struct System {
    host: Arc<Host>,
    ear: Ear,
    /// Of the listener that it has for that; none: ours.
    listener: Option<SocketAddr>,
    path: &'static str,
    inputs: usize,
}

thread_local! {
    static SYSTEMS: RefCell<[Option<System>; 4]> = const { RefCell::new([const { None }; 4]) };
    static STAND: Stand = Stand::new(Arc::new(Open));
}

fuzz_target!(|bytes: &[u8]| {
    // The first byte says to which system, and two things of the head; a line of the query comes next, and then the body.
    let Some((first, rest)) = bytes.split_first() else { return };
    let (query, body) = rest.split_at(rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()));
    let body = body.strip_prefix(b"\n").unwrap_or(body);
    let which = usize::from(first & 3);
    SYSTEMS.with_borrow_mut(|systems| {
        let system = systems[which].get_or_insert_with(|| system(which));
        system.is_posted(query, body, first & 4 != 0, first & 8 != 0);
        system.inputs += 1;
        if system.inputs == INPUTS {
            systems[which] = None;
        }
    });
});

fn system(which: usize) -> System {
    let aphlict = |gorge: bool| json!({"client": ["127.0.0.1:9"], "admin": [ADMIN], "gorge": gorge});
    let admin = Some(ADMIN.parse().expect("an address"));
    let (name, config, listener, path) = match which {
        2 => {
            let applications = json!([{"app_key": "test", "app_secret": "test_secret"}]);
            ("xlvein", json!({"applications": applications}), None, "/api/v1/im/push")
        }
        3 => ("pushlet", json!({"topics": ["*"], "open": true}), None, "/send"),
        gorge => ("aphlict", aphlict(gorge == 1), admin, "/"),
    };
    let (host, ear) = (host(&[(name, config)], None), Ear::default());
    host.live_in(ear.clone());
    System { host, ear, listener, path, inputs: 0 }
}

impl System {
    fn is_posted(&self, query: &[u8], body: &[u8], is_page: bool, is_json: bool) {
        let Routed::Route(call) = self.host.route(self.listener, "POST", self.path) else {
            panic!("it posts to nobody")
        };
        let name = if self.listener.is_some() { "instance" } else { "topic" };
        let kind = if is_json { "application/json" } else { "application/x-www-form-urlencoded" };
        let mut headers = vec![("content-type".to_owned(), kind.to_owned())];
        headers.extend(is_page.then(|| ("origin".to_owned(), "https://a.example".to_owned())));
        let request = ConnectRequest {
            dialect: "native",
            transport: "http",
            method: "POST".into(),
            path: self.path.into(),
            query: vec![(name.to_owned(), String::from_utf8_lossy(query).into_owned())],
            headers,
            ..ConnectRequest::default()
        };
        let visit = Visit { request, body: Bytes::copy_from_slice(body), client: None };
        let answer = STAND.with(|stand| stand.drive(call.answer(visit)));
        let answer = not_broken(answer, body).expect("nobody is asked who it is");
        let published = self.ear.taken();
        assert!(answer.status == 200 || published.is_empty(), "{} after it was out", answer.status);
        match self.listener {
            None => assert!(answer.status < 500, "{}", answer.status),
            Some(_) => {
                assert!([200, 400, 403].contains(&answer.status), "{}", answer.status);
                assert!(!is_page || answer.status == 403, "a page published");
                published.iter().for_each(|payload| is_passed_on(body, payload, &answer.body));
            }
        }
    }
}

/// All of it but who has touched it, and last of those this node.
fn is_passed_on(posted: &[u8], published: &[u8], receipt: &[u8]) {
    let read = |bytes: &[u8]| serde_json::from_slice::<Json>(bytes).expect("JSON");
    let (mut came, mut went, receipt) = (read(posted), read(published), read(receipt));
    let touched = went.as_object_mut().expect("an object").remove("touched");
    let last = touched.as_ref().and_then(|touched| touched.as_array()?.last());
    assert_eq!(last, receipt.get("fingerprint"), "{touched:?}");
    came.as_object_mut().expect("an object").remove("touched");
    assert_eq!(came, went);
}

/// Takes all that is published.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Vec<Bytes>>>);

impl Ear {
    fn taken(&self) -> Vec<Bytes> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl World for Ear {
    fn channels(&self) -> Vec<ChannelName> {
        Vec::new()
    }
    fn rules_changed(&self, _: &[SocketAddr]) {}
    fn policies_changed(&self, _: Patterns) {}
    fn publish(&self, _: Said) -> bool {
        true
    }
    fn publish_now(&self, _: Arc<Client>, drafts: Vec<Draft>) -> Publishing {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.extend(drafts.iter().map(|draft| draft.message.payload.clone()));
        let (epoch, ack) = (Epoch(1), Ack::Memory);
        let receipt =
            |draft: Draft| Receipt { channel: draft.channel, offset: 1, epoch, time: 1, ack, duplicate: false };
        Box::pin(ready(drafts.into_iter().map(|draft| Ok(receipt(draft))).collect()))
    }
    fn listeners(&self, _: &ChannelName) -> Vec<Arc<Client>> {
        Vec::new()
    }
    fn sessions(&self, _: &dyn Fn(&Client) -> bool) -> Vec<Arc<Client>> {
        Vec::new()
    }
    fn kick(&self, _: &dyn Fn(&Client) -> bool, _: &str) -> usize {
        0
    }
    fn unsubscribe(&self, _: &dyn Fn(&Client) -> bool, _: &ChannelName) -> usize {
        0
    }
}
