//! Which hub is measured, and how to be let in.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use http::Uri;

use super::hub::{CHANNELS, Hub, Start};
use crate::cli::remote::given;
use crate::cli::{Misused, Settings};
use crate::keys::{ADMIN_KEY, DEMO_TOKEN, Keys};

#[derive(Clone, Copy, ValueEnum)]
enum Ack {
    Synced,
    Written,
    Memory,
}

/// Flags that say which hub is measured.
#[derive(Args)]
pub struct Aim {
    /// Measure this hub, as http://127.0.0.1:PORT [default: one of our own, in a directory that is removed afterwards]
    #[arg(long, value_name = "URL")]
    hub: Option<String>,
    /// It may be on another machine. It, its users and the network in between feel the whole load
    #[arg(long, requires = "hub")]
    not_loopback: bool,
    /// A key that may publish there [default: the admin key in the data directory]
    #[arg(long, value_name = "KEY", env = "AETHER_KEY", hide_env_values = true)]
    key: Option<String>,
    /// A token that may read there [default: the demo token in the data directory]
    #[arg(long, value_name = "TOKEN", env = "AETHER_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// What the names of its channels begin with
    #[arg(long, value_name = "NAME", default_value = CHANNELS)]
    prefix: String,
    /// What our own hub promises to publishers [default: synced]
    #[arg(long, conflicts_with = "hub")]
    ack: Option<Ack>,
    /// Settings for our own hub [default: none, it has the defaults]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the keys of --hub are
    #[arg(long, value_name = "DIR", requires = "hub")]
    data: Option<String>,
    /// One JSON object instead of lines
    #[arg(long)]
    pub json: bool,
}

impl Aim {
    pub fn hub(&self) -> anyhow::Result<Hub> {
        let Some(url) = &self.hub else { return self.own() };
        let address = address(url)?;
        if !address.ip().is_loopback() && !self.not_loopback {
            return Err(Misused(format!(
                "{url} is not on this machine's loopback: the whole load would go there. If that is yours and meant, say \
                 --not-loopback"
            ))
            .into());
        }
        let settings = Settings { config: self.config.clone(), data: self.data.clone() };
        let held = |credential: &Option<String>, name: &str, flag: &str| -> anyhow::Result<String> {
            if let Some(credential) = given(credential)? {
                return Ok(credential);
            }
            // The keys of this machine's hub are nobody else's.
            let here = address.ip().is_loopback();
            let held = if here { Keys::held(&settings.load(Vec::new())?, name)? } else { None };
            Ok(held
                .with_context(|| format!("there is no {name} to show to {url}: give {flag}, or --data"))?
                .reveal()
                .to_owned())
        };
        let (key, token) = (held(&self.key, ADMIN_KEY, "--key")?, held(&self.token, DEMO_TOKEN, "--token")?);
        Hub::at(address, key, token, self.prefix.clone()).with_context(|| format!("{url} cannot be measured"))
    }

    fn own(&self) -> anyhow::Result<Hub> {
        let ack = self.ack.and_then(|ack| Some(ack.to_possible_value()?.get_name().to_owned()));
        let env: Vec<_> = ack.iter().map(|ack| ("AETHER_RETENTION_DEFAULT_ACK", ack.as_str())).collect();
        let program = std::env::current_exe().context("which program is this?")?;
        let mut hub = Hub::start(&program, &Start { env: &env, config: self.config.as_deref() })?;
        hub.channels.clone_from(&self.prefix);
        Ok(hub)
    }
}

fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let misused = |why: &str| Misused(format!("--hub {url}: {why}"));
    let uri: Uri = url.parse().map_err(|_| misused("write http://127.0.0.1:PORT"))?;
    if !matches!(uri.scheme_str(), Some("http" | "ws")) {
        return Err(misused("write http://127.0.0.1:PORT; TLS is not measured").into());
    }
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let found: Vec<_> =
        (host, uri.port_u16().unwrap_or(80)).to_socket_addrs().map_err(|why| misused(&why.to_string()))?.collect();
    // A name that is loopback and something else too is not loopback.
    match found.iter().find(|address| !address.ip().is_loopback()).or(found.first()) {
        Some(address) => Ok(*address),
        None => bail!(misused("there is no such machine")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_is_a_plain_url() {
        assert_eq!(address("http://127.0.0.1:8080").unwrap(), "127.0.0.1:8080".parse().unwrap());
        assert_eq!(address("ws://[::1]").unwrap(), "[::1]:80".parse().unwrap());
        for bad in ["127.0.0.1:8080", "https://127.0.0.1", "ftp://127.0.0.1", ""] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
