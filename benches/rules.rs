//! What rules cost, without sockets and stores: `cargo bench --bench rules`, and `-- --json` for programs.
//!
//! One thread asks the host as the kernel does. Each figure is the best of some rounds, because what disturbs a round only
//! ever makes it slower; read ratios before absolutes.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use aether::kernel::format::View;
use aether::kernel::hooks::{Client, Grants, Hooks, Identity};
use aether::kernel::message::{ChannelName, Draft, Message, Publication};
use aether::kernel::pattern::Patterns;
use aether::plugins::{Host, HostConfig, Limits, PluginUse};
use bytes::Bytes;
use serde_json::json;

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(60);
const SIZES: [(&str, usize); 4] = [("200 B", 200), ("1 KiB", 1 << 10), ("16 KiB", 16 << 10), ("256 KiB", 256 << 10)];

const RULES: &str = r#"
aether.on.publish("vote.*", function(s, ch, msg) return s.user ~= nil and msg.size < 1e6 end)
aether.on.publish("read.*", function(s, ch, msg) return msg:get("author.name") ~= "mallory" end)
aether.on.subscribe("acl.{room}", function(s, ch) return s.user == ch.room end)
local yes = aether.allow({ view = "masked" })
aether.on.subscribe("view.*", function(s, ch) return yes end)
aether.on.transform("same.*", function(ch, msg) return msg end)
aether.on.transform("get.*", function(ch, msg) if msg:get("author.name") then return msg end end)
aether.on.transform("json.*", function(ch, msg)
	local t = table.clone(msg:json())
	t.author = nil
	return msg:with_json(t)
end)
aether.on.view("*", "masked", { drop = { "author.email" }, mask = { ["author.phone"] = "last4" } })
aether.on.view("*", "picked", { pick = { "n", "author.name" } })
aether.on.view("*", "scripted", function(ch, msg) return msg:with_json({ n = msg:get("n") }) end)
aether.on.subscribe("masked", function() return aether.allow({ view = "masked" }) end)
aether.on.subscribe("picked", function() return aether.allow({ view = "picked" }) end)
aether.on.subscribe("scripted", function() return aether.allow({ view = "scripted" }) end)
"#;

struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        let dir = std::env::temp_dir().join(format!("aether-bench-rules-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        Dir(dir)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().expect("it is in a directory")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A hot answer is there at once.
fn now<T>(answer: impl Future<Output = T>) -> T {
    match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("a hot hook waits"),
    }
}

/// Nanoseconds a call, the best of some rounds.
fn nanos(mut call: impl FnMut()) -> f64 {
    let began = Instant::now();
    let mut calls = 0u64;
    while began.elapsed() < ROUND / 2 {
        call();
        calls += 1;
    }
    let calls = calls.max(1) * 2;
    let round = |_| {
        let began = Instant::now();
        (0..calls).for_each(|_| call());
        began.elapsed().as_nanos() as f64 / calls as f64
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

fn payload(size: usize) -> Bytes {
    let head = r#"{"n":12345,"author":{"name":"ann","email":"ann@example.org","phone":"+49 170 1234567"},"tags":["a","b"],"rows":["#;
    let row = r#"{"id":1024,"text":"a line of a chat, about so long","at":1767225600.25,"ok":true}"#;
    let mut text = head.to_owned();
    text += row;
    while text.len() + row.len() + 3 <= size {
        text += ",";
        text += row;
    }
    Bytes::from(text + "]}")
}

fn client(grants: Grants) -> Client {
    Client {
        id: "s1".into(),
        identity: Identity { user: Some("ann".into()), grants, ..Identity::default() },
        ip: None,
        dialect: "native",
        transport: "ws",
        credential: true,
        connected: 0,
    }
}

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).expect("a channel's name")
}

fn draft(channel: &ChannelName, payload: &Bytes) -> Draft {
    Draft::new(channel.clone(), Message { payload: payload.clone(), ..Message::default() })
}

fn entries(host: &Host) -> u64 {
    host.counters().lua_entries.load(Ordering::Relaxed)
}

struct Table {
    json: bool,
    rows: Vec<serde_json::Value>,
}

impl Table {
    fn row(&mut self, what: &str, size: &str, nanos: f64, asked: Option<f64>) {
        let shown = if nanos < 10_000.0 { format!("{nanos:.0} ns") } else { format!("{:.1} us", nanos / 1000.0) };
        let verdict = asked.map_or(String::new(), |asked| format!("asked: {:.0} ns", asked));
        if !self.json {
            println!("| {what:<44} | {size:>8} | {shown:>10} | {verdict:<15} |");
        }
        self.rows.push(json!({"what": what, "payload": size, "ns": nanos.round(), "asked_ns": asked}));
    }
}

fn main() {
    let mut table = Table { json: std::env::args().any(|arg| arg == "--json"), rows: Vec::new() };
    let dir = Dir::new();
    dir.write("scripts/rules.lua", RULES);
    // A hot hook has 5 ms, and one that takes half of one moves aside: tables of a quarter of a megabyte of JSON take longer, and
    // here that is to be seen.
    let long = Duration::from_secs(1);
    let limits = Limits { call: long, slow: long, ..Limits::default() };
    let config = HostConfig { scripts: Some(dir.0.join("scripts")), limits, ..HostConfig::default() };
    let host = Host::load(config).unwrap_or_else(|error| panic!("{error}"));
    host.begin().unwrap_or_else(|error| panic!("{error}"));
    let all = Patterns::from_strings(["*"]).expect("a pattern");
    let granted = client(Grants { subscribe: all.clone(), publish: all, ..Grants::default() });
    let plain = client(Grants::default());
    let small = payload(200);

    let publish = |who: &Client, channel: &str, payload: &Bytes| {
        let channel = name(channel);
        nanos(|| drop(now(host.publish(who, draft(&channel, payload))).expect("it may")))
    };
    let subscribe = |who: &Client, channel: &str| {
        let channel = name(channel);
        nanos(|| drop(now(host.subscribe(who, &channel)).expect("it may")))
    };

    let before = entries(&host);
    table.row("publish, no hook, by grant", "200 B", publish(&granted, "free.1", &small), None);
    assert_eq!(entries(&host), before, "a channel that no hook concerns enters no Lua");
    table.row("publish, a vote", "200 B", publish(&plain, "vote.1", &small), Some(1000.0));
    table.row("publish, a vote that reads msg:get", "200 B", publish(&plain, "read.1", &small), None);
    table.row("subscribe, a vote", "", subscribe(&plain, "acl.ann"), Some(1000.0));
    table.row("subscribe, a vote that names a view", "", subscribe(&plain, "view.1"), Some(1000.0));
    for (what, channel) in [
        ("transform that returns msg", "same.1"),
        ("transform that reads msg:get", "get.1"),
        ("transform by msg:json and msg:with_json", "json.1"),
    ] {
        for (size, bytes) in SIZES {
            table.row(what, size, publish(&granted, channel, &payload(bytes)), None);
        }
    }
    for (what, channel) in [
        ("view declared: drop and mask", "masked"),
        ("view declared: pick", "picked"),
        ("view scripted: msg:get and msg:with_json", "scripted"),
    ] {
        let view = now(host.subscribe(&plain, &name(channel))).expect("it may").expect("it has a view");
        for (size, bytes) in SIZES {
            table.row(what, size, render(&*view, &payload(bytes)), None);
        }
    }
    reload(&mut table, &dir);
    if table.json {
        println!("{}", serde_json::Value::Array(table.rows));
    }
}

fn render(view: &dyn View, payload: &Bytes) -> f64 {
    let message = Message { payload: payload.clone(), ..Message::default() };
    let publication = Publication { offset: 1, time: 0, expires: None, once: None, message };
    let channel = name("room.1");
    nanos(|| drop(view.render(&channel, &publication).expect("it is shown")))
}

fn reload(table: &mut Table, dir: &Dir) {
    let of = |n: usize| -> PluginUse {
        let plugin = format!("p{n}");
        let manifest = format!(
            "[plugin]\nname = \"{plugin}\"\nversion = \"1.0.0\"\naether = \">=0.1\"\ndescription = \"one of many\"\n\n[permissions]\nchannels = [\"p{n}.*\"]\n"
        );
        dir.write(&format!("plugins/{plugin}/plugin.toml"), &manifest);
        let hooks: String = ["subscribe", "publish", "history"]
            .iter()
            .map(|kind| format!("aether.on.{kind}(\"p{n}.*\", function(s, ch) return s.user ~= nil end)\n"))
            .collect();
        dir.write(&format!("plugins/{plugin}/main.lua"), &hooks.repeat(10));
        PluginUse { dir: dir.0.join("plugins").join(&plugin), name: plugin, at: "bench".into(), ..PluginUse::default() }
    };
    let plugins: Vec<_> = (0..20).map(of).collect();
    let host =
        Host::load(HostConfig { plugins, scripts: Some(Path::new(&dir.0).join("scripts")), ..HostConfig::default() });
    let host = host.unwrap_or_else(|error| panic!("{error}"));
    host.begin().unwrap_or_else(|error| panic!("{error}"));
    let took = (0..20).map(|_| host.reload().unwrap_or_else(|error| panic!("{error}")).took);
    let best = took.min().unwrap_or_default();
    table.row("reload of 20 plugins with 30 hooks each", "", best.as_nanos() as f64, None);
}
