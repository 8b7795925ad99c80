//! The port of the dialects: how what happens in a channel becomes bytes for one kind of reader.
//!
//! A format is a dialect on a transport through a view. Its bytes are the same for each of its readers, which is why a
//! publication is encoded once per format and never once per subscriber.

use std::future::Future;
use std::pin::Pin;

use super::message::{ChannelName, Epoch, Message, Offset, Position, Publication};

/// Turns what happens in a channel into the bytes that its readers get.
pub trait Format: Send + Sync + 'static {
    /// One publication, framed for the transport. Appends to `out`.
    fn publication(&self, channel: &ChannelName, epoch: Epoch, publication: &Publication, out: &mut Vec<u8>);

    /// The same for one reader by itself, out of the log: pains over bytes that many share may be spared here.
    fn alone(&self, channel: &ChannelName, epoch: Epoch, publication: &Publication, out: &mut Vec<u8>) {
        self.publication(channel, epoch, publication, out);
    }

    /// Something that a reader must know beside the publications. `at` is where the reader stands after it.
    fn notice(&self, channel: &ChannelName, at: Position, notice: &Notice, out: &mut Vec<u8>);

    /// Whether each publication and notice is followed by bytes of the session's own, made by `seal`.
    fn sealed(&self) -> bool {
        false
    }

    /// What a sealed format puts behind each publication: where the session stands in all its channels.
    fn seal(&self, _positions: &mut dyn Iterator<Item = (&ChannelName, Position)>, _out: &mut Vec<u8>) {}
}

/// What a class of readers sees of a channel's publications. Made once per publication and view while that is in the tail,
/// and once per replay when it has left it; never per reader of what happens now. Two views are the same if they are the
/// same `Arc`: who answers a new one each time makes a class of each reader.
pub trait View: Send + Sync + 'static {
    fn name(&self) -> &str;
    /// The message as these readers see it; none if it is withheld from them, which they are told as a gap.
    fn render(&self, channel: &ChannelName, publication: &Publication) -> Option<Message>;
    /// Rendering takes so long that no thread which serves readers may do it: what they are to see is foreseen.
    fn is_slow(&self) -> bool {
        false
    }
    /// Renders elsewhere what does not carry it yet, and lets the messages carry it.
    fn foresee<'a>(&'a self, _channel: &'a ChannelName, _page: &'a mut [Publication]) -> Foreseeing<'a> {
        Box::pin(std::future::ready(()))
    }
}

/// Ends when the messages carry what readers will see.
pub type Foreseeing<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What a reader is told beside the publications.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    Gap(Gap),
    /// The replay has caught up with where the channel stood when it was asked for.
    Live,
}

/// Publications that a reader asked for and will not get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The position that was asked for: everything after it was wanted.
    pub requested: Offset,
    /// The next publication that can come.
    pub available: Offset,
    pub cause: GapCause,
    /// The first and last offset that are missing, where that is known.
    pub missing: Option<(Offset, Offset)>,
}

impl Gap {
    /// Everything after `requested` and before `available`.
    pub fn between(requested: Offset, available: Offset, cause: GapCause) -> Gap {
        Gap { requested, available, cause, missing: Some((requested + 1, available - 1)) }
    }

    /// One publication.
    pub fn at(offset: Offset, cause: GapCause) -> Gap {
        Gap::between(offset - 1, offset + 1, cause)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GapCause {
    /// Retention took them, or somebody deleted them.
    Evicted,
    /// The reader was too far behind and its channel's policy let it jump.
    Skipped,
    /// The position belongs to another life of the log.
    Epoch,
    /// The rules do not let this reader see what came before, or its view withholds this one.
    Denied,
    /// The reader has had it, as a copy in another of its channels.
    Once,
    /// A crash took them before they were on disk: the channel's policy did not promise more.
    Lost,
}

impl GapCause {
    pub fn as_str(self) -> &'static str {
        match self {
            GapCause::Evicted => "evicted",
            GapCause::Skipped => "skipped",
            GapCause::Epoch => "epoch",
            GapCause::Denied => "denied",
            GapCause::Once => "once",
            GapCause::Lost => "lost",
        }
    }
}
