//! The command line: one verb per file, each a question asked of the library.
//!
//! Exit codes: 0 done, 1 failed, 2 not understood (clap's own), 3 a gap that was not to be.

pub mod bench;
mod check;
mod completions;
mod explain;
mod key;
mod operator;
mod plugin;
mod publish;
mod reload;
mod remote;
mod replay;
mod serve;
mod shadow;
mod subscribe;
mod tail;
mod test;
mod token;
mod trust;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::config::{ChannelPattern, Config, ConfigError, Look, Setting};
use crate::kernel::message::ChannelName;

const LEARN: &str = r#"First steps:
  aether                                   start; prints a key and a link to a page that shows what arrives
  curl -H "Authorization: Bearer $(cat data/keys/admin_key)" \
       -d '{"channel":"demo.hello","payload":{"text":"hello"}}' http://127.0.0.1:8080/api/v1/publish
  curl -N "http://127.0.0.1:8080/sse?channel=demo.hello&token=$(cat data/keys/demo_token)"

The same without curl, from the hub's own directory:
  aether sub demo.hello                    prints what comes; comes back by itself, and misses nothing
  aether pub demo.hello '{"text":"hello"}'

Letting others in:
  aether token --sub alice --channel 'user.alice.*'        a token for a subscriber
  aether key --name shop --publish 'order.*'               a key for a back end, and the lines for aether.toml

Settings: flags, then AETHER_<SECTION>_<KEY>, then aether.toml (which documents every key), then defaults.
  aether check                             says everything that is wrong with them
  aether reload                            puts changed rules in charge on the running hub; `aether rollback` the old ones
  aether explain ID                        says why a refusal with this decision id came about"#;

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed (refused, unreachable), 2 the command line is wrong, 3 a gap was seen (sub --strict).";

/// A realtime push hub: back ends publish over HTTP, clients subscribe over WebSocket and SSE, Lua decides.
#[derive(Parser)]
#[command(name = "aether", version, after_help = LEARN, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    serve: serve::Serve,
}

#[derive(Subcommand)]
enum Verb {
    Serve(serve::Serve),
    Check(check::Check),
    Token(token::Token),
    Key(key::Key),
    Pub(publish::Publish),
    Sub(subscribe::Subscribe),
    Reload(reload::Reload),
    Rollback(reload::Rollback),
    Explain(Box<explain::Explain>),
    Shadow(shadow::Shadow),
    Replay(replay::Replay),
    Tail(tail::Tail),
    Test(test::Test),
    Plugin(plugin::Plugin),
    Bench(Box<bench::Bench>),
    Completions(completions::Completions),
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.verb {
        None => cli.serve.run(),
        Some(Verb::Serve(serve)) => serve.run(),
        Some(Verb::Check(check)) => check.run(),
        Some(Verb::Token(token)) => token.run(),
        Some(Verb::Key(key)) => key.run(),
        Some(Verb::Pub(publish)) => publish.run(),
        Some(Verb::Sub(subscribe)) => subscribe.run(),
        Some(Verb::Reload(reload)) => reload.run(),
        Some(Verb::Rollback(rollback)) => rollback.run(),
        Some(Verb::Explain(explain)) => explain.run(),
        Some(Verb::Shadow(shadow)) => shadow.run(),
        Some(Verb::Replay(replay)) => replay.run(),
        Some(Verb::Tail(tail)) => tail.run(),
        Some(Verb::Test(test)) => test.run(),
        Some(Verb::Plugin(plugin)) => plugin.run(),
        Some(Verb::Bench(bench)) => bench.run(),
        Some(Verb::Completions(completions)) => completions.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough (`| head -1`); that is no failure.
        Err(error) if error.is::<ReaderGone>() => ExitCode::SUCCESS,
        // Its lines have said it all.
        Err(error) if error.is::<AlreadyTold>() => ExitCode::FAILURE,
        Err(error) => {
            match error.downcast_ref::<ConfigError>() {
                // Its lines begin with their places, and stay that way so that editors can jump to them.
                Some(problems) => eprintln!("{problems}"),
                None => eprintln!("error: {error:#}"),
            }
            match error {
                error if error.is::<subscribe::GapSeen>() => ExitCode::from(3),
                error if error.is::<Misused>() => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Nobody reads our standard output any more.
#[derive(Debug)]
struct ReaderGone;

impl std::fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("standard output is closed")
    }
}

impl std::error::Error for ReaderGone {}

/// Something failed, and what was printed has said it all.
#[derive(Debug)]
struct AlreadyTold;

impl std::fmt::Display for AlreadyTold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("something failed")
    }
}

impl std::error::Error for AlreadyTold {}

/// The command line asks for what is not there.
#[derive(Debug)]
struct Misused(String);

impl std::fmt::Display for Misused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misused {}

/// Writes bytes to standard output, as they are and at once.
fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        outcome => outcome.context("standard output takes nothing"),
    }
}

/// Flags that say where the settings are.
#[derive(Args, Default)]
struct Settings {
    /// The file with the settings [default: aether.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory that holds everything the hub keeps (store.path)
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
}

impl Settings {
    fn load(&self, more: Vec<Setting>) -> Result<Config, ConfigError> {
        self.look(more)?.whole()
    }

    fn look(&self, more: Vec<Setting>) -> Result<Look, ConfigError> {
        let data = self.data.iter().map(|dir| Setting { key: "store.path", value: dir.clone(), at: "--data" });
        Config::look(self.config.as_deref(), data.chain(more).collect())
    }
}

/// A channel pattern that an operator typed.
fn pattern(text: &str) -> Result<String, String> {
    ChannelPattern::parse(text).map(|pattern| pattern.as_str().to_owned())
}

/// A channel that somebody typed.
fn channel(text: &str) -> Result<String, String> {
    ChannelName::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_verb_it_serves() {
        let cli = Cli::try_parse_from(["aether", "--addr", "127.0.0.1:0", "--data", "d"]).unwrap();
        assert!(cli.verb.is_none() && cli.serve.addr.is_some());
        assert!(matches!(Cli::try_parse_from(["aether", "serve", "--addr", "x"]).unwrap().verb, Some(Verb::Serve(_))));
        assert_eq!(Cli::try_parse_from(["aether", "sreve"]).err().unwrap().exit_code(), 2);
    }
}
