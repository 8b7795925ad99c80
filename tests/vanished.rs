//! Peers that vanish: their address leaves the machine, so that nothing tells the hub that nobody is there.

use std::process::{Command, Stdio};

use crate::common::*;

/// In a network of its own, where it may take an address away. Prints the connections before and, once they are none, after.
const SCENE: &str = r#"
set -e
ip link set lo up
ip address add 10.99.0.1/32 dev lo
"$AETHER" serve --addr 0.0.0.0:8080 --data data >banner 2>log &
hub=$!
trap 'kill -9 $hub' EXIT
metric() {
    exec 9<>/dev/tcp/127.0.0.1/8080
    printf 'GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n' >&9
    sed -n 's/\r$//; s/^aether_connections_active //p' <&9
    exec 9>&-
}
for wait in $(seq 200); do (exec 9<>/dev/tcp/127.0.0.1/8080) 2>/dev/null && break; sleep 0.1; done
exec 3<>/dev/tcp/10.99.0.1/8080 4<>/dev/tcp/10.99.0.1/8080 5<>/dev/tcp/10.99.0.1/8080
printf 'GET /sse?channel=public.quiet HTTP/1.1\r\nhost: x\r\n\r\n' >&3
upgrade='connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n'
printf "GET /ws HTTP/1.1\r\nhost: x\r\n$upgrade\r\n" >&4
printf 'GET /sse?channel=public.busy HTTP/1.1\r\nhost: x\r\n\r\n' >&5
for wait in $(seq 200); do [ "$(metric)" = 3 ] && break; sleep 0.1; done
metric
ip address del 10.99.0.1/32 dev lo
exec 8<>/dev/tcp/127.0.0.1/8080
body='{"channel":"public.busy","payload":1}'
printf "POST /api/v1/publish HTTP/1.1\r\nhost: x\r\nauthorization: Bearer $(cat data/keys/admin_key)\r\nconnection: close\r\ncontent-length: ${#body}\r\n\r\n$body" >&8
head -1 <&8
for wait in $(seq 150); do [ "$(metric)" = 0 ] && break; sleep 0.1; done
metric
"#;

fn play(dir: &TempDir, peer_timeout: &str) -> (String, String) {
    // Neither heartbeats nor pings find them: only the kernel can.
    let config = format!(
        "[server]\npeer_timeout = {peer_timeout:?}\n[sse]\nheartbeat = \"1h\"\n\
         [websocket]\nping_interval = \"1h\"\npong_timeout = \"1h\"\n"
    );
    dir.write("aether.toml", &config);
    let mut command = Command::new("unshare");
    command.args(["-rn", "bash", "-c", SCENE]).current_dir(dir.path()).stdin(Stdio::null());
    command.env("AETHER", env!("CARGO_BIN_EXE_aether"));
    command.env("AETHER_PLUGINS_DIR", repository().join("plugins"));
    command.env("AETHER_PLUGINS_SCRIPTS", repository().join("scripts"));
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

#[test]
fn half_open_connections_are_found_whether_they_are_quiet_or_written_to() {
    let able = Command::new("unshare").args(["-rn", "ip", "link", "set", "lo", "up"]).output();
    if !able.is_ok_and(|tried| tried.status.success()) {
        return missing("network namespace", "Install util-linux and iproute2, and allow user namespaces");
    }
    let (out, err) = play(&TempDir::new(), "2s");
    assert_eq!(out.trim(), "3\nHTTP/1.1 200 OK\r\n0", "{err}");
}
