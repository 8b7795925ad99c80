//! `aether bench`: how fast a hub is, how exact, and what it takes for that.
//!
//! The load comes from this process and goes to another one, on the same machine: compare the ratios of one run, not
//! figures of different days. Publishers have threads of their own; every subscriber is counted by itself. `benches/hub` and
//! `benches/peers` measure with the same parts.

pub mod account;
mod aim;
pub mod dial;
pub mod fan_out;
pub mod floor;
mod frames;
pub mod histogram;
pub mod hub;
pub mod idle;
pub mod machine;
pub mod mark;
pub mod neighbour;
pub mod ours;
pub mod progress;
pub mod publisher;
pub mod readers;
pub mod report;
pub mod storm;
pub mod target;
mod verbs;

use clap::{Args, Subcommand};

const LEARN: &str = r#"Without --hub it starts a hub of its own, with the rules in plugins/ and scripts/ and its history on disk in a directory that it
removes afterwards. With --hub it measures that one, on loopback only unless it is told otherwise.

Examples:
  aether bench fan-out
  aether bench fan-out --transport sse --publishers 4 --subscribers 1000 --json
  aether bench fan-out --rate 50                            nothing to coalesce: what a quiet delivery takes
  aether bench fan-out --channels 100 --subscribers 100 --publishers 8
  aether bench publish --connections 64 --batch 100 --ack written
  aether bench idle --connections 50000 --hold 60s
  aether bench resume-storm --clients 10000
  aether bench floor --publishers 4                         what sockets allow on this machine

Exit codes: 0 measured, and every subscriber is exact; 1 one is not, or there is nothing to measure; 2 the command line is wrong."#;

/// Measure a hub: deliveries, publishes, idle connections, clients that return at once
#[derive(Args)]
#[command(after_help = LEARN)]
pub struct Bench {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    FanOut(verbs::FanOut),
    Publish(verbs::Publish),
    Idle(verbs::Idle),
    ResumeStorm(verbs::ResumeStorm),
    Floor(verbs::Floor),
}

impl Bench {
    pub fn run(self) -> anyhow::Result<()> {
        ours::end_with_signals()?;
        match self.verb {
            Verb::FanOut(verb) => verb.run(),
            Verb::Publish(verb) => verb.run(),
            Verb::Idle(verb) => verb.run(),
            Verb::ResumeStorm(verb) => verb.run(),
            Verb::Floor(verb) => verb.run(),
        }
    }
}
