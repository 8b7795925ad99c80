//! `aether token`: a token for a subscriber, signed with the hub's signing key.

use anyhow::ensure;
use clap::Args;

use super::{Settings, pattern};
use crate::config::Period;
use crate::keys::{Claims, Keys};

/// Make a token for a subscriber
///
/// Prints the token and nothing else. The hub's signing key is made if there is none yet.
#[derive(Args)]
#[command(after_help = r#"Example:
  TOKEN=$(aether token --sub alice --channel 'user.alice.*' --channel public.news --expires 12h)
  curl -N "http://127.0.0.1:8080/sse?channel=public.news&token=$TOKEN""#)]
pub struct Token {
    #[command(flatten)]
    settings: Settings,
    /// Who it is for: the user that plugins and presence see
    #[arg(long)]
    sub: String,
    /// Channels that it may read, a pattern; may be given many times
    #[arg(long = "channel", value_name = "PATTERN", value_parser = pattern)]
    channels: Vec<String>,
    /// Channels that it may publish to, a pattern; may be given many times
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    publish: Vec<String>,
    /// How long it is good
    #[arg(long, value_name = "PERIOD", default_value = "30d")]
    expires: Period,
}

impl Token {
    pub fn run(self) -> anyhow::Result<()> {
        println!("{}", self.token()?);
        Ok(())
    }

    fn token(&self) -> anyhow::Result<String> {
        ensure!(!self.sub.is_empty(), "--sub is empty: say who the token is for");
        ensure!(self.expires.0.as_secs() > 0, "--expires is 0: such a token lets nobody in");
        let config = self.settings.load(Vec::new())?;
        let keys = Keys::prepare(&config)?;
        for warning in &keys.warnings {
            eprintln!("warning: {warning}");
        }
        if self.channels.is_empty() && self.publish.is_empty() {
            eprintln!("note: without --channel or --publish it can do only what other rules allow");
        }
        Ok(Claims::new(&self.sub, &self.channels, &self.publish, self.expires.0).sign(keys.signing_key())?)
    }
}
