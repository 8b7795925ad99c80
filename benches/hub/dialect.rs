//! A plugin's dialect beside the native one, in turns on one hub: what a delivery costs must not depend on who words it.

use std::net::SocketAddr;

use aether::cli::bench::account::Account;
use aether::cli::bench::hub::Hub;
use aether::cli::bench::target::{Step, Target, Transport, upgrade};

use super::ratios::Ratios;
use super::{PAYLOAD, RUN, SUBSCRIBERS, exact, load, shape, start};

const TURNS: usize = 7;

/// The hub, to those who speak the dialect of `scripts/lines.lua`.
struct Lines<'a>(&'a Hub);

impl Target for Lines<'_> {
    fn name(&self) -> String {
        "a dialect".into()
    }

    fn durability(&self) -> String {
        self.0.durability()
    }

    fn subscribers_at(&self) -> SocketAddr {
        self.0.subscribers_at()
    }

    fn account(&self) -> &Account {
        self.0.account()
    }

    fn channel(&self, run: u64, number: usize) -> String {
        self.0.channel(run, number)
    }

    fn subscribe(&self, _transport: Transport, channel: &str) -> Vec<Step> {
        let path = format!("/lines?channel={channel}&token={}", self.0.token);
        vec![Step::new(upgrade(&path), b"listening\n")]
    }

    fn publish(&self, channel: &str, payloads: &[String], request: &mut Vec<u8>) {
        self.0.publish(channel, payloads, request);
    }
}

pub fn beside_the_native_one() -> anyhow::Result<()> {
    println!("\nfan-out, a plugin's dialect beside the native one: 1 channel, {SUBSCRIBERS} subscribers, {PAYLOAD} B");
    println!("| publishers | native, CPU us per delivery | dialect, CPU us per delivery | ratio | spread |");
    println!("|---|---|---|---|---|");
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/hub/scripts");
    for publishers in [1, 4] {
        let hub = start(&[("AETHER_PLUGINS_SCRIPTS", scripts)])?;
        let targets: [&dyn Target; 2] = [&hub, &Lines(&hub)];
        let mut ratios = Ratios::default();
        for turn in 0..=TURNS {
            let mut cost = [0.0; 2];
            for (cost, target) in cost.iter_mut().zip(targets) {
                let ran = exact(target, &shape(Transport::Ws, load(publishers, RUN / 2)))?;
                *cost = ran.cpu_us_per_delivery.unwrap_or(f64::NAN);
            }
            // The first turn only warms.
            if turn > 0 {
                ratios.add(cost[0], cost[1]);
            }
        }
        println!("| {publishers} | {} |", ratios.cells());
    }
    Ok(())
}
