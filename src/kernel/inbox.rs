//! The way into a lane: a queue with an end, and the thread behind it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
/// What waits for a lane weighs so many bytes at most, or is one request.
const WEIGHT: usize = 64 << 20;
/// A panic there is a fault of the hub or its store, and nothing that this process can mend.
const FALLEN: &str = "a thread that numbers and stores messages has ended by a fault; what was acknowledged as synced is safe: restart \
                      the hub, and report what its log says of a panic";

/// The life of a lane. It ends when it is told to stop, or with its hub.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Inbox {
    pub log: Arc<dyn Log>,
    queue: mpsc::Sender<Request>,
    returns: Arc<Returns>,
    waiting: Arc<Waiting>,
    is_stopping: AtomicBool,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What is not answered yet.
#[derive(Default)]
struct Waiting {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

/// What a request that waits for a lane weighs, until it is answered.
pub(super) struct Weight {
    bytes: usize,
    waiting: Arc<Waiting>,
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.waiting.requests.fetch_sub(1, Ordering::Relaxed);
        self.waiting.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Inbox {
    /// The way into a lane, and the lane's work; `length` is how many requests may wait for it.
    pub fn to(log: Arc<dyn Log>, shared: &Arc<Shared>, length: usize) -> (Inbox, Work) {
        let (queue, requests) = mpsc::channel(length);
        let returns = Arc::new(Returns::default());
        let lane = Lane::new(log.clone(), shared.clone(), returns.clone());
        let (waiting, is_stopping) = (Arc::default(), AtomicBool::new(false));
        let inbox = Inbox { log, queue, returns, waiting, is_stopping, thread: Mutex::new(None) };
        (inbox, Box::pin(lane.run(requests)))
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
        self.queue.send(request).await.map_err(|_| self.ended())?;
        answer.await.map_err(|_| self.ended())?
    }

    /// Why nothing is taken in any more, if so.
    pub fn failure(&self) -> Option<String> {
        let is_fallen = self.queue.is_closed() && !self.is_stopping.load(Ordering::Acquire);
        if is_fallen { Some(FALLEN.to_owned()) } else { self.log.failure() }
    }

    /// What somebody hears whose lane is no more.
    fn ended(&self) -> LogError {
        let is_stopping = self.is_stopping.load(Ordering::Acquire);
        LogError(if is_stopping { "the hub is stopping" } else { FALLEN }.into())
    }

    fn not_published(&self) -> PublishError {
        match self.is_stopping.load(Ordering::Acquire) {
            true => PublishError::Stopping,
            false => PublishError::Store(self.ended()),
        }
    }

    /// Room for a request; none if too much waits already.
    fn weigh(&self, items: &[Item]) -> Option<Weight> {
        let mut last = std::ptr::null();
        let weigh = |item: &Item| {
            let message = &item.admitted.0.message;
            // What goes to many channels is there once.
            let shared = if message.payload.as_ptr() == last { message.payload.len() } else { 0 };
            last = message.payload.as_ptr();
            message.weight() - shared
        };
        let bytes = items.iter().map(weigh).sum();
        let weight = Weight { bytes, waiting: self.waiting.clone() };
        self.waiting.requests.fetch_add(1, Ordering::Relaxed);
        let before = self.waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        (before == 0 || before + bytes <= WEIGHT).then_some(weight)
    }

    async fn settled(
        &self,
        answer: oneshot::Receiver<Result<Vec<Appended>, LogError>>,
    ) -> Result<Vec<Appended>, PublishError> {
        let answer = in_time(PATIENCE, answer).await?;
        Ok(answer.map_err(|_| self.not_published())??)
    }

    /// What somebody hears for whom there is no room.
    fn busy(&self) -> PublishError {
        PublishError::Busy(self.returns.place(self.waiting.requests.load(Ordering::Relaxed)))
    }

    /// Ends the lane, or gives up on one that does not answer in time.
    pub async fn stop(&self, limit: Duration) -> Result<(), LogError> {
        if self.queue.is_closed() && !self.is_stopping.load(Ordering::Acquire) {
            return Err(self.ended());
        }
        self.is_stopping.store(true, Ordering::Release);
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
        let bytes = self.inbox.waiting.bytes.load(Ordering::Relaxed);
        let is_scarce = queue.capacity() < queue.max_capacity() / 4 || bytes > WEIGHT / 4 * 3;
        is_scarce && places.iter().all(|place| place.ack == Ack::Memory && place.channel.is_kept())
    }

    /// Puts what was gathered into the queue: it has its order when this returns.
    pub fn send(&mut self) -> Sent<'a> {
        let (reply, answer) = oneshot::channel();
        let (items, places) = (std::mem::take(&mut self.items), std::mem::take(&mut self.places));
        let began = Instant::now();
        let inbox = self.inbox;
        let gives_way = self.gives_way(&places);
        let queued = match inbox.weigh(&items) {
            _ if items.is_empty() => Ok(()),
            Some(weight) if !gives_way => {
                inbox.queue.try_send(Request::Publish { items, weight, reply }).map_err(|error| match error {
                    mpsc::error::TrySendError::Full(_) => inbox.busy(),
                    mpsc::error::TrySendError::Closed(_) => inbox.not_published(),
                })
            }
            _ => Err(inbox.busy()),
        };
        Sent { inbox, places, queued, answer, began }
    }
}

/// A parcel on its way.
pub(super) struct Sent<'a> {
    inbox: &'a Inbox,
    places: Vec<Place>,
    queued: Result<(), PublishError>,
    answer: oneshot::Receiver<Result<Vec<Appended>, LogError>>,
    began: Instant,
}

impl Sent<'_> {
    /// Waits for the lane, and puts each result in its place. How long it took, if the lane took it.
    pub async fn arrive(self, results: &mut [Result<Receipt, PublishError>]) -> Option<Duration> {
        let Sent { inbox, places, queued, answer, began } = self;
        if places.is_empty() {
            return None;
        }
        let appended = match queued {
            Ok(()) => inbox.settled(answer).await,
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

/// A store that hangs is as good as one that fails: nobody waits for it without an end.
async fn in_time<T>(limit: Duration, answer: impl Future<Output = T>) -> Result<T, LogError> {
    tokio::time::timeout(limit, answer).await.map_err(|_| LogError("the store does not answer".into()))
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
