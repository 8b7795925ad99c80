//! The way into a lane: a queue with an end, and the thread behind it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::channel::Channel;
use super::hub::{PublishError, Receipt};
use super::lane::{Item, Lane, Request, Shared};
use super::log::{Appended, Log, LogError};
use super::policy::Ack;
use super::returns::Returns;

/// How long a publisher waits for the store.
const PATIENCE: Duration = Duration::from_secs(15);

/// The life of a lane. It ends when it is told to stop, or with its hub.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Inbox {
    pub log: Arc<dyn Log>,
    queue: mpsc::Sender<Request>,
    returns: Arc<Returns>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Inbox {
    /// The way into a lane, and the lane's work; `length` is how many requests may wait for it.
    pub fn to(log: Arc<dyn Log>, shared: &Arc<Shared>, length: usize) -> (Inbox, Work) {
        let (queue, requests) = mpsc::channel(length);
        let returns = Arc::new(Returns::default());
        let lane = Lane::new(log.clone(), shared.clone(), returns.clone());
        (Inbox { log, queue, returns, thread: Mutex::new(None) }, Box::pin(lane.run(requests)))
    }

    /// Gives the lane a thread of its own.
    pub fn start(&self, name: &str, work: Work) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || runtime.block_on(work))?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    pub async fn ask<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<Result<T, LogError>>,
    ) -> Result<T, LogError> {
        in_time(PATIENCE, self.answered(request, answer)).await?
    }

    async fn answered<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<Result<T, LogError>>,
    ) -> Result<T, LogError> {
        self.queue.send(request).await.map_err(stopping)?;
        answer.await.map_err(stopping)?
    }

    /// What somebody hears for whom there is no room.
    fn busy(&self) -> PublishError {
        PublishError::Busy(self.returns.place(self.queue.max_capacity() - self.queue.capacity()))
    }

    /// Ends the lane, or gives up on one that does not answer in time.
    pub async fn stop(&self, limit: Duration) -> Result<(), LogError> {
        let (reply, answer) = oneshot::channel();
        let stopped = in_time(limit, self.answered(Request::Stop { reply }, answer)).await?;
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
        stopped
    }
}

/// Messages that a lane takes as one group.
pub(super) struct Parcel<'a> {
    inbox: &'a Inbox,
    items: Vec<Item>,
    places: Vec<Place>,
}

/// Where a message goes, and whose it is.
struct Place {
    index: usize,
    channel: Arc<Channel>,
    ack: Ack,
}

impl<'a> Parcel<'a> {
    pub fn to(inbox: &'a Inbox) -> Self {
        Parcel { inbox, items: Vec::new(), places: Vec::new() }
    }

    pub fn add(&mut self, index: usize, item: Item) {
        self.places.push(Place { index, channel: item.channel.clone(), ack: item.ack });
        self.items.push(item);
    }

    /// The last quarter of a queue is for those whose publishers were promised the store.
    fn gives_way(&self, places: &[Place]) -> bool {
        let queue = &self.inbox.queue;
        let is_scarce = queue.capacity() < queue.max_capacity() / 4;
        is_scarce && places.iter().all(|place| place.ack == Ack::Memory && place.channel.is_kept())
    }

    /// Puts what was gathered into the queue: it has its order when this returns.
    pub fn send(&mut self) -> Sent {
        let (reply, answer) = oneshot::channel();
        let (items, places) = (std::mem::take(&mut self.items), std::mem::take(&mut self.places));
        let began = Instant::now();
        if items.is_empty() {
            return Sent { places, queued: Ok(()), answer, began };
        }
        if self.gives_way(&places) {
            return Sent { places, queued: Err(self.inbox.busy()), answer, began };
        }
        let queued = self.inbox.queue.try_send(Request::Publish { items, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => self.inbox.busy(),
            mpsc::error::TrySendError::Closed(_) => PublishError::Stopping,
        });
        Sent { places, queued, answer, began }
    }
}

/// A parcel on its way.
pub(super) struct Sent {
    places: Vec<Place>,
    queued: Result<(), PublishError>,
    answer: oneshot::Receiver<Result<Vec<Appended>, LogError>>,
    began: Instant,
}

impl Sent {
    /// Waits for the lane, and puts each result in its place. How long it took, if the lane took it.
    pub async fn arrive(self, results: &mut [Result<Receipt, PublishError>]) -> Option<Duration> {
        let Sent { places, queued, answer, began } = self;
        if places.is_empty() {
            return None;
        }
        let appended = match queued {
            Ok(()) => settled(answer).await,
            Err(error) => Err(error),
        };
        match appended {
            Ok(appended) => {
                for (place, appended) in places.into_iter().zip(appended) {
                    let index = place.index;
                    results[index] = Ok(place.receipt(appended));
                }
                Some(began.elapsed())
            }
            Err(error) => {
                places.into_iter().for_each(|place| results[place.index] = Err(error.clone()));
                None
            }
        }
    }
}

fn stopping<E>(_: E) -> LogError {
    LogError("the hub is stopping".into())
}

/// A store that hangs is as good as one that fails: nobody waits for it without an end.
async fn in_time<T>(limit: Duration, answer: impl Future<Output = T>) -> Result<T, LogError> {
    tokio::time::timeout(limit, answer).await.map_err(|_| LogError("the store does not answer".into()))
}

async fn settled(answer: oneshot::Receiver<Result<Vec<Appended>, LogError>>) -> Result<Vec<Appended>, PublishError> {
    let answer = in_time(PATIENCE, answer).await?;
    Ok(answer.map_err(|_| PublishError::Stopping)??)
}

impl Place {
    fn receipt(self, appended: Appended) -> Receipt {
        let (offset, time, duplicate) = match appended {
            Appended::New { offset, time } => (offset, time, false),
            Appended::Repeat { offset, time } => (offset, time, true),
        };
        let (channel, epoch) = (self.channel.name.clone(), self.channel.epoch);
        Receipt { channel, offset, epoch, time, ack: self.ack, duplicate }
    }
}
