//! Peers that vanish without a word, when a network is unplugged or a telephone loses its cell.
//!
//! Nobody tells the hub, and left alone the kernel would resend for a quarter of an hour and would never ask who is silent.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Has the kernel give the connection up when its peer has acknowledged nothing for so long.
pub fn watch(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream);
    // While something is on its way.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(timeout))?;
    // While nothing is: asked after half of the time, and twice more in the other half. In whole seconds.
    let at_least = |part: Duration| part.max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new().with_time(at_least(timeout / 2)).with_interval(at_least(timeout / 4));
    socket.set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_has_been_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        watch(&stream, Duration::from_secs(60)).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(60)));
    }
}
