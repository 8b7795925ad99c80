//! **Who never stops talking** is heard, and ends as everybody does.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aether::edges::line::{Frame, Socket};
use aether::edges::load::{self, Load};
use aether::edges::native::{Limits, WsDialect};
use aether::edges::pulse::Pulse;
use aether::edges::roster::Roster;
use aether::edges::session::{self, Shared};
use aether::edges::wire::Ending;
use aether::kernel::hooks::{Client, Identity};
use aether::kernel::session::Session;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::common::kernel::{Kernel, Rules, client};
use crate::common::{DEADLINE, within};

/// Whoever takes a frame finds another one.
struct Talker {
    mouth: mpsc::Sender<()>,
    ear: mpsc::Receiver<()>,
}

impl Talker {
    fn new() -> Talker {
        let (mouth, ear) = mpsc::channel(1);
        mouth.try_send(()).unwrap();
        Talker { mouth, ear }
    }
}

impl Socket for Talker {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn room(&self) -> usize {
        64 * 1024
    }

    fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Ending>> {
        // Now and then nothing, as a socket does when the runtime wants another task to have its turn.
        self.ear.poll_recv(cx).map(|_| {
            self.mouth.try_send(()).unwrap();
            Ok(Frame::Text(br#"{"type":"ping"}"#.as_slice().into()))
        })
    }

    async fn finish(&mut self, _: Instant) {}
}

#[tokio::test]
async fn a_client_that_always_has_one_more_frame_ends_with_its_credential() {
    let kernel = Kernel::start(Arc::new(Rules::default()));
    let pulse = Pulse { interval: DEADLINE, timeout: None, write_timeout: DEADLINE, drain: DEADLINE };
    let shared = Shared { pulse, roster: Arc::new(Roster::default()), load: Load::new(load::Limits::default()) };
    let expires = kernel.hub.now() + Duration::from_millis(50).as_micros() as u64;
    let identity = Identity { expires: Some(expires), ..Identity::default() };
    let ann = Client { identity, ..Client::clone(&client("ann")) };
    let session = Session::new(kernel.hub.clone(), Arc::new(ann), kernel.format.clone());
    let limits = Limits { channels_per_request: 10, channels_per_connection: 10, refusals_per_minute: 10 };
    let dialect = WsDialect::new(limits, false);
    let running = session::run(Talker::new(), dialect, session, Arc::new(shared), Vec::new());
    let ending = within(DEADLINE, "the end", tokio::spawn(running)).await.unwrap();
    assert_eq!(ending, Ending::Expired);
}
