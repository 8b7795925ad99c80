//! What readers that stop reading cost those who read: one in ten of a channel's thousand takes nothing any more.
//!
//! One subscriber of the same channel is timed, 200 messages a second, with all the others reading and then with a tenth of them stuck.

use std::time::{Duration, Instant};

use aether::cli::bench::dial::{self, Line};
use aether::cli::bench::histogram::Histogram;
use aether::cli::bench::hub::Hub;
use aether::cli::bench::neighbour::Neighbour;
use aether::cli::bench::progress::Progress;
use aether::cli::bench::target::{Target, Transport};
use tokio::io::AsyncReadExt;

const READERS: usize = 1000;
const PAYLOAD: usize = 1024;
const RUN: Duration = Duration::from_secs(8);
/// Until the sockets of those who do not read are full.
const SETTLE: Duration = Duration::from_secs(3);

pub fn stalled() -> anyhow::Result<()> {
    println!(
        "\n200 messages/s of {PAYLOAD} B to {READERS} WebSocket subscribers of a channel, history on disk, ack synced"
    );
    println!("| who reads | p50 ms | p99 ms | p99 : all read | MiB of the hub |");
    println!("|---|---|---|---|---|");
    let hub = super::start(&[])?;
    run(&hub, 0, 0)?;
    let (all, memory) = run(&hub, 1, 0)?;
    println!("| all | {:.2} | {:.2} | 1.00 | {memory:.1} |", all.at_ms(0.5), all.at_ms(0.99));
    let (most, memory) = run(&hub, 2, READERS / 10)?;
    let ratio = most.at_ms(0.99) / all.at_ms(0.99);
    println!("| nine in ten | {:.2} | {:.2} | {ratio:.2} | {memory:.1} |", most.at_ms(0.5), most.at_ms(0.99));
    Ok(())
}

fn run(hub: &Hub, turn: u64, stuck: usize) -> anyhow::Result<(Histogram, f64)> {
    let channel = hub.channel(turn, 0);
    let mut lines =
        dial::subscribers(hub, Transport::Ws, std::slice::from_ref(&channel), READERS, &Progress::silent())?;
    let idle: Vec<Line> = lines.drain(..stuck).collect();
    for line in &idle {
        socket2::SockRef::from(&line.stream).set_recv_buffer_size(4096)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    for line in lines {
        line.stream.set_nonblocking(true)?;
        let _entered = runtime.enter();
        let mut stream = tokio::net::TcpStream::from_std(line.stream)?;
        runtime.spawn(async move {
            let mut sink = [0; 8192];
            while stream.read(&mut sink).await.is_ok_and(|count| count > 0) {}
        });
    }
    let neighbour = Neighbour::move_in(hub, &channel, PAYLOAD)?;
    let (heard, span) = neighbour.beside(|| {
        std::thread::sleep(SETTLE);
        let began = Instant::now();
        std::thread::sleep(RUN);
        Ok((began, Instant::now()))
    })?;
    let memory = hub.account().memory_kib().unwrap_or(f64::NAN) / 1024.0;
    runtime.shutdown_background();
    drop(idle);
    Ok((heard.within(&[span]), memory))
}
