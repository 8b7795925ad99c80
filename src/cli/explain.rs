//! `aether explain`: why the rules of the running hub decided as they did, or how they would.

use anyhow::Context;
use clap::{ArgGroup, Args};
use serde_json::{Map, Value as Json, json};

use super::operator::Desk;

/// Say why a decision came out as it did: each hook's verdict with file and line, and what it read
#[derive(Args)]
#[command(after_help = "\
  aether explain v3ayvee6                                     a decision that was made, by the id that the client heard
  aether explain v3ayvee6 --full                              with the payload; the hub's log says that somebody looked
  aether explain --user bob --subscribe room.1                what would be; nothing happens
  aether explain --user bob --publish room.1 --payload '{\"text\":\"hello\"}'
  aether explain --bearer TOKEN --subscribe room.1            the connect hooks are asked first who that is")]
#[command(group = ArgGroup::new("what").args(["decision", "subscribe", "publish", "history", "connect", "bearer"]).required(true).multiple(true))]
pub struct Explain {
    #[command(flatten)]
    desk: Desk,
    /// A decision id
    #[arg(value_name = "ID", conflicts_with_all = ["subscribe", "publish", "history", "connect"])]
    decision: Option<String>,
    /// Show its payload, and not only the payload's form; the hub's log says that somebody looked
    #[arg(long, requires = "decision")]
    full: bool,
    /// Would it be let in, and as whom?
    #[arg(long)]
    connect: bool,
    /// May it listen to this channel?
    #[arg(long, value_name = "CHANNEL", value_parser = super::channel)]
    subscribe: Option<String>,
    /// May it publish there?
    #[arg(long, value_name = "CHANNEL", value_parser = super::channel, conflicts_with = "subscribe")]
    publish: Option<String>,
    /// What it would publish
    #[arg(long, value_name = "TEXT", requires = "publish")]
    payload: Option<String>,
    /// The event's name of what it would publish
    #[arg(long, value_name = "NAME", requires = "publish")]
    event: Option<String>,
    /// May it read what was said there before?
    #[arg(long, value_name = "CHANNEL", value_parser = super::channel, conflicts_with_all = ["subscribe", "publish"])]
    history: Option<String>,
    /// It asks only for what it missed
    #[arg(long, requires = "history")]
    resume: bool,
    /// Somebody who is connected now, by the session's id
    #[arg(long, value_name = "ID", conflicts_with_all = ["user", "tenant", "attrs", "grants", "bearer"])]
    session: Option<String>,
    /// The user who asks
    #[arg(long, value_name = "USER", conflicts_with = "bearer")]
    user: Option<String>,
    /// Its tenant
    #[arg(long, value_name = "TENANT", conflicts_with = "bearer")]
    tenant: Option<String>,
    /// Its attributes, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = object, conflicts_with = "bearer")]
    attrs: Option<Json>,
    /// Its grants: {"subscribe":["room.*"],"publish":[],"history":[]}
    #[arg(long, value_name = "JSON", value_parser = object, conflicts_with = "bearer")]
    grants: Option<Json>,
    /// Its credential: the connect hooks say who it is
    #[arg(long, value_name = "TOKEN")]
    bearer: Option<String>,
    /// By what it comes: ws, sse, poll or http
    #[arg(long, value_name = "NAME", default_value = "ws", value_parser = ["ws", "sse", "poll", "http"])]
    transport: String,
    /// Its address
    #[arg(long, value_name = "IP")]
    ip: Option<std::net::IpAddr>,
}

fn object(text: &str) -> Result<Json, String> {
    match serde_json::from_str(text) {
        Ok(json @ Json::Object(_)) => Ok(json),
        Ok(_) => Err("expected a JSON object".into()),
        Err(error) => Err(error.to_string()),
    }
}

impl Explain {
    pub fn run(self) -> anyhow::Result<()> {
        let answer = self.desk.ask("explain", &self.question())?;
        if self.desk.json {
            return super::print(&answer);
        }
        let answer: Json = serde_json::from_slice(&answer).context("the hub's answer cannot be read")?;
        let what_if = answer["what_if"] == true;
        let mut lines = String::new();
        for decision in answer["decisions"].as_array().into_iter().flatten() {
            write(&mut lines, decision, what_if);
        }
        super::print(lines.as_bytes())
    }

    fn question(&self) -> Json {
        if let Some(id) = &self.decision {
            return json!({"decision": id, "full": self.full});
        }
        let given = json!({
            "subscribe": self.subscribe, "publish": self.publish, "history": self.history, "payload": self.payload,
            "event": self.event, "session": self.session, "user": self.user, "tenant": self.tenant, "attrs": self.attrs,
            "grants": self.grants, "bearer": self.bearer, "transport": self.transport, "ip": self.ip,
            "connect": self.connect.then_some(true), "resume": self.resume.then_some(true),
        });
        let given = given.as_object().cloned().unwrap_or_default();
        Json::Object(given.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
    }
}

fn text(json: &Json) -> String {
    json.as_str().map_or_else(|| json.to_string(), str::to_owned)
}

/// What a channel keeps, and who says so.
fn kept(keeps: &Json) -> String {
    let said_by: Vec<&str> = keeps["said_by"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let by = if said_by.is_empty() { "the settings".to_owned() } else { said_by.join(", ") };
    let history = &keeps["history"];
    if history.is_null() {
        return format!("keeps nothing on disk, says {by}");
    }
    let bounds = [("count", "messages"), ("age_s", "seconds"), ("bytes", "bytes")];
    let bounds: Vec<String> = bounds
        .into_iter()
        .filter_map(|(field, unit)| history[field].as_u64().map(|most| format!("{most} {unit}")))
        .collect();
    let bounds = if bounds.is_empty() { "everything".to_owned() } else { format!("at most {}", bounds.join(", ")) };
    format!("keeps {bounds}, says {by}")
}

/// One decision, for people.
fn write(lines: &mut String, decision: &Json, what_if: bool) {
    let mut line = |indent: usize, text: String| {
        lines.push_str(&"  ".repeat(indent));
        lines.push_str(&text);
        lines.push('\n');
    };
    let asked = &decision["asked"];
    let session = &asked["session"];
    let who = if asked.is_null() { &decision["user"] } else { &session["user"] };
    let who = who.as_str().filter(|who| !who.is_empty()).unwrap_or("nobody");
    let event = asked["event"].as_str().unwrap_or_else(|| decision["hook"].as_str().unwrap_or_default());
    let channel = if asked.is_null() { &decision["channel"] } else { &asked["channel"] };
    let outcome = if decision["allowed"] == true { "allowed" } else { "denied" };
    let would = if what_if { "would be " } else { "" };
    let about = match event {
        "connect" => "connect".to_owned(),
        event => format!("{event} {} by {who}", channel.as_str().unwrap_or_default()),
    };
    let code = decision["code"].as_str().filter(|_| decision["allowed"] == false);
    line(0, format!("{about}: {would}{outcome}{}", code.map_or(String::new(), |code| format!(" ({code})"))));
    for (name, field) in [("why", "why"), ("rule", "rule"), ("grant", "grant"), ("gives", "gives")] {
        let value = &decision[field];
        let mut value = value.clone();
        // The difference says it, without what it was about.
        let diff = value.get_mut("diff").map_or(Json::Null, Json::take);
        if let (Some(lines), Some(gives)) = (diff.as_array(), value.as_object_mut()) {
            gives.remove("payload");
            gives.remove("diff");
            line(1, format!("{name}: {}", Json::from(gives.clone())));
            lines.iter().for_each(|changed| line(2, text(changed)));
        } else if !value.is_null() && value != "" {
            line(1, format!("{name}: {}", text(&value)));
        }
    }
    if !what_if {
        line(1, format!("decision {} by generation {}", text(&decision["decision"]), decision["generation"]));
    }
    if !session.is_null() {
        let shown = |field: &str| Some(format!("{field} {}", session[field])).filter(|_| !session[field].is_null());
        let parts: Vec<String> =
            ["user", "tenant", "attrs", "ip", "transport", "grants"].into_iter().filter_map(shown).collect();
        line(1, format!("session: {}", parts.join(", ")));
    }
    if let Some(keeps) = decision.get("keeps").filter(|keeps| !keeps.is_null()) {
        line(1, format!("channel: {}", kept(keeps)));
    }
    for field in ["request", "message"] {
        if !asked[field].is_null() {
            line(1, format!("{field}: {}", asked[field]));
        }
    }
    let hooks = decision["hooks"].as_array().map(Vec::as_slice).unwrap_or_default();
    if hooks.is_empty() {
        line(1, "no hook was asked".into());
    }
    for hook in hooks {
        let said = match (hook["verdict"].as_str().unwrap_or("?"), hook["remembered"] == true) {
            ("nothing", _) => "no opinion".to_owned(),
            (_, true) => "allow (remembered: it was not asked again)".into(),
            ("deny", _) => format!("deny {} {} ({})", text(&hook["code"]), hook["why"], text(&hook["at"])),
            ("rests", _) => format!("was not run: {}", text(&hook["why"])),
            ("broke", _) => format!("broke: {}", text(&hook["why"])),
            (other, _) => other.to_owned(),
        };
        line(1, format!("{} ({}, {}): {said}", text(&hook["hook"]), text(&hook["plugin"]), text(&hook["place"])));
        for read in hook["reads"].as_array().into_iter().flatten() {
            let of = read["of"].as_str().filter(|of| !of.is_empty()).map_or(String::new(), |of| format!(" {of}"));
            let key = if read["key"].is_null() { String::new() } else { format!(" {}", read["key"]) };
            let with = if read["with"].is_null() { String::new() } else { format!(" with {}", read["with"]) };
            line(2, format!("{}{of}{key}{with} -> {}", text(&read["call"]), read["told"]));
        }
        for (name, field) in [("logged", "logged"), ("did not", "withheld")] {
            for what in hook[field].as_array().into_iter().flatten() {
                line(2, format!("{name}: {}", text(what)));
            }
        }
    }
}
