//! Where a connection stays between two events: its task sleeps, and the hub's herald writes to it without waking that.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll};

use parking_lot::Mutex;

use crate::kernel::session::Outlet;

/// What can be parked.
pub trait Parked: Send {
    /// Writes what is new; true if that was all there was to do.
    fn write(&mut self) -> bool;
    /// Writing has panicked: it is to end when its task wakes.
    fn fail(&mut self);
}

pub struct Parking<C>(Mutex<Option<Box<C>>>);

impl<C> Default for Parking<C> {
    fn default() -> Self {
        Parking(Mutex::new(None))
    }
}

impl<C: Parked> Parking<C> {
    /// Parks it until `poll` has an event, and gives it back.
    pub async fn wait<E>(
        &self,
        connection: Box<C>,
        mut poll: impl FnMut(&mut C, &mut Context<'_>) -> Poll<E>,
    ) -> (Box<C>, E) {
        *self.0.lock() = Some(connection);
        std::future::poll_fn(|cx| {
            // Held while it looks: who rings meanwhile finds it taken and wakes the task.
            let mut parked = self.0.lock();
            let Some(mut connection) = parked.take() else { return Poll::Pending };
            match poll(&mut connection, cx) {
                Poll::Ready(event) => Poll::Ready((connection, event)),
                Poll::Pending => {
                    *parked = Some(connection);
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl<C: Parked> Outlet for Parking<C> {
    fn write(&self) -> bool {
        let Some(mut parked) = self.0.try_lock() else { return false };
        let Some(connection) = parked.as_mut() else { return false };
        // The herald writes to all: what breaks here must not break it.
        catch_unwind(AssertUnwindSafe(|| connection.write())).unwrap_or_else(|_| {
            connection.fail();
            false
        })
    }
}
