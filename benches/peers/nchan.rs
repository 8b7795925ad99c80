//! nginx with nchan, as Debian has it: in a directory that is removed afterwards, with the settings that let it show what it
//! can (`keepalive_requests` above all: its default drops a publisher after 1,000 messages).

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use aether::cli::bench::account::Account;
use aether::cli::bench::target::{Step, Target, Transport, upgrade};
use anyhow::Context;

use super::place::{Place, end, free_port, wait_for};

pub const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

pub struct Nchan {
    address: SocketAddr,
    account: Account,
    child: Child,
    _place: Place,
}

impl Nchan {
    pub fn start() -> anyhow::Result<Nchan> {
        let (place, port) = (Place::new("nchan")?, free_port()?);
        let dir = place.dir.display();
        // Workers would be nobody, who may not write here.
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("    {name}_temp_path {dir}/{name};\n"))
            .concat();
        let settings = format!(
            "load_module {MODULE};
{user}
daemon off;
worker_processes auto;
worker_rlimit_nofile 100000;
pid {dir}/pid;
error_log {dir}/error.log;
events {{ worker_connections 50000; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    nchan_shared_memory_size 512M;
{temporary}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /sub {{
            nchan_subscriber websocket eventsource;
            nchan_channel_id $arg_id;
            nchan_subscriber_first_message newest;
        }}
        location = /pub {{
            nchan_publisher http;
            nchan_channel_id $arg_id;
            nchan_message_buffer_length 100;
            nchan_message_timeout 300s;
        }}
    }}
}}
"
        );
        let file = place.dir.join("nginx.conf");
        std::fs::write(&file, settings)?;
        let mut command = Command::new(program());
        command.arg("-p").arg(&place.dir).arg("-c").arg(&file).arg("-e").arg(place.dir.join("error.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().context("nginx")?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let account = Account::Processes(child.id());
        let nchan = Nchan { address, account, child, _place: place };
        wait_for(address)?;
        Ok(nchan)
    }
}

fn program() -> &'static str {
    if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" }
}

impl Drop for Nchan {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

impl Target for Nchan {
    fn name(&self) -> String {
        "nchan".into()
    }

    fn durability(&self) -> String {
        "the newest 100 in shared memory".into()
    }

    fn subscribers_at(&self) -> SocketAddr {
        self.address
    }

    fn account(&self) -> &Account {
        &self.account
    }

    fn channel(&self, run: u64, number: usize) -> String {
        format!("bench-{run}-{number}")
    }

    fn subscribe(&self, transport: Transport, channel: &str) -> Vec<Step> {
        let path = format!("/sub?id={channel}");
        match transport {
            Transport::Ws | Transport::WsDeflate => vec![Step::new(upgrade(&path), b"\r\n\r\n")],
            Transport::Sse => {
                let head = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n");
                vec![Step::new(head, b": hi\n\n")]
            }
        }
    }

    fn publish(&self, channel: &str, payloads: &[String], request: &mut Vec<u8>) {
        for payload in payloads {
            let head =
                format!("POST /pub?id={channel} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n", payload.len());
            request.extend_from_slice(head.as_bytes());
            request.extend_from_slice(payload.as_bytes());
        }
    }
}

/// Of nginx; nchan is Debian's beside it.
pub fn version() -> String {
    let nginx = super::place::version(program(), &["-v"]);
    let package = super::place::version("dpkg-query", &["-W", "-f", "nchan ${Version}", "libnginx-mod-nchan"]);
    format!("{} with {package}", nginx.trim_start_matches("nginx version: "))
}
