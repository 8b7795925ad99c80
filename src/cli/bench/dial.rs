//! Connections to a target: as many as one machine can make to itself.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use socket2::{Domain, Protocol, Socket, Type};

use super::progress::Progress;
use super::target::{Step, Target, Transport};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections of one source address: a hub lets in 10,000 of one, and there are 28,000 ports to come from.
const PER_SOURCE: usize = 5000;
/// The first port of each further source: the system looks through all that are taken before it gives one itself.
const FIRST_PORT: usize = 10_000;
/// Files that are open beside the connections.
const OTHERS: u64 = 200;

/// A connection whose opening was heard.
pub struct Line {
    pub stream: TcpStream,
    /// What came after the answer.
    pub rest: Vec<u8>,
}

/// Where the nth of many connections comes from; nothing if anywhere will do.
pub fn source(to: SocketAddr, number: usize) -> Option<SocketAddr> {
    let place = number / PER_SOURCE;
    let port = (FIRST_PORT + number % PER_SOURCE) as u16;
    (place > 0 && to.ip().is_ipv4() && to.ip().is_loopback())
        .then(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 1, place.min(250) as u8)), port))
}

/// A socket that may connect from there.
pub fn socket(to: SocketAddr, from: Option<SocketAddr>) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(from) = from {
        socket.set_reuse_address(true)?;
        // Somebody else may have that port; any other will do.
        socket.bind(&from.into()).or_else(|_| socket.bind(&SocketAddr::new(from.ip(), 0).into()))?;
    }
    Ok(socket)
}

pub fn open(to: SocketAddr, from: Option<SocketAddr>, steps: &[Step]) -> anyhow::Result<Line> {
    let socket = socket(to, from)?;
    socket.connect_timeout(&to.into(), PATIENCE).with_context(|| format!("nobody listens at {to}"))?;
    let mut stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut rest, mut buffer) = (Vec::new(), [0; 4096]);
    for step in steps {
        stream.write_all(&step.say)?;
        while !step.take(&mut rest)? {
            let count = read(&mut stream, &mut buffer, "a subscriber")?;
            if count == 0 {
                bail!("closed instead of an answer{}", last_words(&rest));
            }
            rest.extend_from_slice(&buffer[..count]);
        }
    }
    Ok(Line { stream, rest })
}

/// Reads, or says who waits in vain.
pub fn read(stream: &mut TcpStream, buffer: &mut [u8], who: &str) -> anyhow::Result<usize> {
    stream.read(buffer).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            anyhow!("nothing comes for {who} for {PATIENCE:?}: does what is measured still run, and is it a hub?")
        }
        ErrorKind::ConnectionReset => anyhow!("the connection of {who} broke: has what is measured ended?"),
        _ => anyhow!(error).context(format!("{who} cannot read")),
    })
}

/// What was said before a connection was closed, as far as a person can read it.
pub fn last_words(said: &[u8]) -> String {
    let said: String = String::from_utf8_lossy(said).chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
    if said.is_empty() {
        ", without a word: has what is measured ended?".into()
    } else {
        format!(", and heard: {said}")
    }
}

/// `count` subscribers of each channel, in turns.
pub fn subscribers(
    target: &dyn Target,
    transport: Transport,
    channels: &[String],
    count: usize,
    progress: &Progress,
) -> anyhow::Result<Vec<Line>> {
    let all = channels.len().saturating_mul(count);
    make_room(all)?;
    let to = target.subscribers_at();
    (0..all)
        .map(|number| {
            if number % 100 == 0 {
                progress.say(|| format!("connecting: {number} of {all}"));
            }
            open(to, source(to, number), &target.subscribe(transport, &channels[number % channels.len()]))
                .with_context(|| format!("subscriber {} of {all}", number + 1))
        })
        .collect()
}

/// How many connections there may be, up to `wanted`: each needs a file here and one in the hub, which inherits our limit.
pub fn room(wanted: usize) -> usize {
    let needed = (wanted as u64).saturating_add(OTHERS);
    let (soft, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE).unwrap_or((1024, 1024));
    if soft >= needed {
        return wanted;
    }
    // Only root may raise the hard one.
    let raised = [(needed.max(hard), needed.max(hard)), (hard, hard)]
        .into_iter()
        .find(|(soft, hard)| rlimit::setrlimit(rlimit::Resource::NOFILE, *soft, *hard).is_ok());
    let have = raised.map_or(soft, |(soft, _)| soft);
    wanted.min(have.saturating_sub(OTHERS) as usize)
}

pub fn make_room(wanted: usize) -> anyhow::Result<()> {
    let room = room(wanted);
    if room < wanted {
        bail!(
            "{wanted} connections need as many open files, and there may be {room}: see `ulimit -Hn`, or ask for fewer"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_come_from_several_addresses_of_loopback_alone() {
        let here: SocketAddr = "127.0.0.1:80".parse().unwrap();
        assert_eq!(source(here, PER_SOURCE - 1), None);
        assert_ne!(source(here, PER_SOURCE), source(here, 2 * PER_SOURCE));
        assert!(source(here, PER_SOURCE).unwrap().ip().is_loopback());
        assert_eq!(source("192.0.2.1:80".parse().unwrap(), 100_000), None);
        assert_eq!(source("[::1]:80".parse().unwrap(), 100_000), None);
    }
}
