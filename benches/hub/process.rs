//! The hub beside the bench, and a publisher that waits for each answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Outcome, PAYLOAD};

/// A hub in a process of its own, with a directory of its own.
pub struct HubProcess {
    child: Child,
    port: u16,
    pub dir: PathBuf,
    admin_key: String,
    pub token: String,
    /// What it says to people: kept open.
    _said: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl HubProcess {
    pub fn start() -> Outcome<HubProcess> {
        HubProcess::start_with(&[])
    }

    /// With settings from the environment.
    pub fn start_with(env: &[(&str, &str)]) -> Outcome<HubProcess> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let dir = std::env::temp_dir().join(format!("aether-bench-{}-{port}", std::process::id()));
        let mut child = Command::new(env!("CARGO_BIN_EXE_aether"))
            .args(["--addr", &format!("127.0.0.1:{port}"), "--log-level", "warn", "--data"])
            .arg(&dir)
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut said = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        said.next().ok_or("the hub said nothing")??;
        let key = |name: &str| std::fs::read_to_string(dir.join("keys").join(name)).map(|text| text.trim().to_owned());
        Ok(HubProcess { admin_key: key("admin_key")?, token: key("demo_token")?, child, port, dir, _said: said })
    }

    pub fn connect(&self) -> Outcome<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(stream)
    }

    fn proc(&self, file: &str) -> Outcome<String> {
        Ok(std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?)
    }

    /// User and system time; the kernel counts it in hundredths of a second.
    pub fn cpu_seconds(&self) -> Outcome<f64> {
        let stat = self.proc("stat")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
    }

    pub fn pss_kib(&self) -> Outcome<f64> {
        let rollup = self.proc("smaps_rollup")?;
        let line = rollup.lines().find(|line| line.starts_with("Pss:")).ok_or("no Pss")?;
        Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
    }
}

impl Drop for HubProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub struct Publisher {
    stream: TcpStream,
    key: String,
    buffer: Vec<u8>,
}

impl Publisher {
    pub fn connect(hub: &HubProcess) -> Outcome<Publisher> {
        Ok(Publisher { stream: hub.connect()?, key: hub.admin_key.clone(), buffer: vec![0; 8192] })
    }

    /// Publishes `PAYLOAD` bytes that begin with the time, and waits for the 200.
    pub fn publish(&mut self, channel: &str) -> Outcome {
        let start = format!("{{\"t\":{},\"x\":\"", nanos());
        let fill = "x".repeat(PAYLOAD - start.len() - 2);
        let body = format!("{{\"channel\":\"{channel}\",\"payload\":{start}{fill}\"}}}}");
        let head = format!(
            "POST /api/v1/publish HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
            self.key,
            body.len()
        );
        self.send((head + &body).as_bytes())
    }

    /// Publishes a payload as it is, and waits for the 200.
    pub fn publish_text(&mut self, channel: &str, payload: &str) -> Outcome {
        let head = format!(
            "POST /api/v1/publish?channel={channel} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.key,
            payload.len()
        );
        self.send((head + payload).as_bytes())
    }

    /// Publishes many at once; the body is a whole batch.
    pub fn batch(&mut self, body: &str) -> Outcome {
        let head = format!(
            "POST /api/v1/publish/batch HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
            self.key,
            body.len()
        );
        self.send((head + body).as_bytes())
    }

    /// Publishes and takes any answer; whether it was a yes.
    pub fn ask(&mut self, channel: &str) -> Outcome<bool> {
        let body = format!("{{\"channel\":\"{channel}\",\"payload\":1}}");
        let head = format!(
            "POST /api/v1/publish HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
            self.key,
            body.len()
        );
        self.stream.write_all((head + &body).as_bytes())?;
        let filled = self.answer()?;
        Ok(self.buffer[..filled].starts_with(b"HTTP/1.1 200"))
    }

    /// Sends a request and waits for its 200.
    fn send(&mut self, request: &[u8]) -> Outcome {
        self.stream.write_all(request)?;
        let filled = self.answer()?;
        if self.buffer[..filled].starts_with(b"HTTP/1.1 200") {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&self.buffer[..filled]).into_owned().into())
    }

    /// Reads an answer into the buffer; how long it is.
    fn answer(&mut self) -> Outcome<usize> {
        let mut filled = 0;
        loop {
            if filled == self.buffer.len() {
                self.buffer.resize(filled * 2, 0);
            }
            let read = self.stream.read(&mut self.buffer[filled..])?;
            filled += read;
            if read == 0 {
                return Err(String::from_utf8_lossy(&self.buffer[..filled]).into_owned().into());
            }
            // The answer is one JSON object and a newline.
            if self.buffer[..filled].ends_with(b"}\n") {
                return Ok(filled);
            }
        }
    }
}

pub fn nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
