//! A TLS stream over TCP, for hyper and for the connection loop alike.
//!
//! The connection loop writes without waiting, which TLS does by a buffer: what is taken is encrypted at once, and what the
//! socket does not take then is kept, a bite at most, until it does. So rustls is driven from here, with no layer between.

use std::future::poll_fn;
use std::io::{self, BufRead, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::deadline::TryWrite;

/// The most that is taken and not yet sent: one record.
const BITE: usize = 16 * 1024;

pub struct TlsStream {
    tcp: TcpStream,
    // Boxed: it is 1 KiB and more, and the stream is moved about.
    tls: Box<ServerConnection>,
    said_goodbye: bool,
}

/// The socket as rustls wants it: it takes or gives what it can, now.
struct Now<'a>(&'a TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TlsStream {
    /// The handshake. It may take for ever: whoever calls sets the deadline.
    pub async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream> {
        let mut tls = Box::new(ServerConnection::new(config).map_err(io::Error::other)?);
        tls.set_buffer_limit(Some(BITE));
        let mut stream = TlsStream { tcp, tls, said_goodbye: false };
        poll_fn(|cx| {
            while stream.tls.is_handshaking() {
                ready!(stream.poll_sent(cx))?;
                if stream.tls.is_handshaking() && ready!(stream.poll_receive(cx))? == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            stream.poll_sent(cx)
        })
        .await?;
        Ok(stream)
    }

    /// The first bytes of the first request, which stay to be read.
    pub async fn peek(&mut self) -> io::Result<&[u8]> {
        poll_fn(|cx| {
            loop {
                match self.tls.reader().fill_buf().map(<[u8]>::len) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(self.poll_receive(cx)).map(drop)?
                    }
                    other => return Poll::Ready(other.map(drop)),
                }
            }
        })
        .await?;
        self.tls.reader().into_first_chunk()
    }

    /// The same stream on the runtime that we are on; it may have been accepted on another.
    pub fn at_home_here(self) -> io::Result<TlsStream> {
        Ok(TlsStream { tcp: TcpStream::from_std(self.tcp.into_std()?)?, ..self })
    }

    /// Encrypted bytes from the socket; 0 at its end.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            match self.tls.read_tls(&mut Now(&self.tcp)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    if let Err(error) = self.tls.process_new_packets() {
                        // The alert that says why, if the socket takes it.
                        let _ = self.send();
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                    }
                    return Poll::Ready(Ok(count));
                }
            }
        }
    }

    /// Sends what is encrypted already, as far as the socket takes it.
    fn send(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            if self.tls.write_tls(&mut Now(&self.tcp))? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Ready once everything that was taken has been sent.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.send() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.tcp.poll_write_ready(cx))?,
                other => return Poll::Ready(other),
            }
        }
    }
}

impl TryWrite for TlsStream {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while taken < bytes.len() {
            match self.send() {
                Ok(()) => match self.tls.writer().write(&bytes[taken..])? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    count => taken += count,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken > 0 => return Ok(taken),
                Err(error) => return Err(error),
            }
        }
        match self.send() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    fn has_unsent(&self) -> bool {
        self.tls.wants_write()
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.tcp.poll_write_ready(cx))?;
        self.poll_sent(cx)
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Who only waits to read must not sit on what it has written.
        if let Poll::Ready(Err(error)) = self.poll_sent(cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            match self.tls.reader().read(buf.initialize_unfilled()) {
                Ok(count) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // Many clients just hang up.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_receive(cx)).map(drop)?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.tcp.poll_write_ready(cx))?,
                other => return Poll::Ready(other),
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sent(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.said_goodbye {
            self.said_goodbye = true;
            self.tls.send_close_notify();
        }
        ready!(self.poll_sent(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
