//! A publisher: it says what nobody has said before, in every way that there is, and believes only what it is told.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aether::kernel::hooks::Client;
use aether::kernel::hub::{Hub, PublishError, Receipt};
use aether::kernel::message::{ChannelName, Draft, Message, Offset};
use tokio::time::sleep;

use super::book::{Book, Class};
use super::dice::Dice;
use super::weather::Weather;
use crate::common::kernel::{channel, client};

pub struct Publisher {
    hub: Arc<Hub>,
    client: Arc<Client>,
    channels: Vec<ChannelName>,
    book: Book,
    dice: Dice,
    weather: Weather,
    /// Of all publishers: no two messages are the same.
    said: Rc<Cell<u64>>,
    /// The newest number that it was given, by channel and life.
    last: BTreeMap<(ChannelName, u64), Offset>,
}

impl Publisher {
    pub fn new(
        hub: Arc<Hub>,
        channels: &[String],
        book: &Book,
        dice: &Dice,
        weather: &Weather,
        said: Rc<Cell<u64>>,
    ) -> Self {
        let channels = channels.iter().map(|name| channel(name)).collect();
        let (book, dice, weather) = (book.clone(), dice.clone(), weather.clone());
        Publisher { hub, client: client("publisher"), channels, book, dice, weather, said, last: BTreeMap::new() }
    }

    pub async fn speak(mut self, times: u64) {
        for _ in 0..times {
            if self.dice.percent(60) {
                sleep(Duration::from_millis(self.dice.below(40))).await;
            }
            match self.dice.below(10) {
                0..=3 => self.say(1).await,
                4..=5 => self.say(self.dice.between(2, 12)).await,
                6 => self.insist().await,
                7 => self.say_for_a_while().await,
                8 => self.say_in_passing().await,
                _ => self.say_in_two_places().await,
            }
        }
    }

    fn draft(&self) -> Draft {
        self.said.set(self.said.get() + 1);
        let payload = format!("m{}", self.said.get());
        let name = self.dice.one_of(&self.channels).clone();
        Draft::new(name, Message { payload: payload.into(), ..Message::default() })
    }

    async fn say(&mut self, count: u64) {
        let first = self.draft();
        let together = self.dice.percent(70);
        let mut drafts = vec![first.clone()];
        for _ in 1..count {
            let draft = self.draft();
            drafts.push(if together { Draft { channel: first.channel.clone(), ..draft } } else { draft });
        }
        self.publish(drafts).await;
    }

    /// Says it under a key until it is told that it was heard, and at times once more.
    async fn insist(&mut self) {
        let draft = self.draft();
        let key = Some(String::from_utf8_lossy(&draft.message.payload).as_ref().into());
        let draft = Draft { idempotency_key: key, ..draft };
        let mut known: Option<Receipt> = None;
        for _ in 0..4 {
            let answers = self.publish(vec![draft.clone()]).await;
            if let [Ok(receipt)] = &answers[..] {
                // What a failing disk has taken, which a weaker promise allows, it has taken with its key.
                let is_lost = |first: &Receipt| {
                    let mut pages = self.book.open();
                    let life = pages.life(first.channel.as_str(), first.epoch);
                    life.is_some_and(|life| life.is_lost(first.offset))
                };
                if let Some(first) = &known
                    && (first.epoch == receipt.epoch && (first.offset, true) != (receipt.offset, receipt.duplicate))
                    && !is_lost(first)
                {
                    self.book.breaks(Class::Duplicate, format!("a repeat of {first:?} is {receipt:?}"));
                }
                known = Some(receipt.clone());
                if self.dice.percent(60) {
                    return;
                }
            }
        }
    }

    async fn say_for_a_while(&mut self) {
        let draft = self.draft();
        let ttl = Some(Duration::from_millis(self.dice.between(1, 3000)));
        self.publish(vec![Draft { ttl, ..draft }]).await;
    }

    async fn say_in_passing(&mut self) {
        let draft = self.draft();
        self.publish(vec![Draft { fleeting: true, ..draft }]).await;
    }

    async fn say_in_two_places(&mut self) {
        let first = self.draft();
        let first = Draft { once: Some(self.said.get()), ..first };
        let other = self.dice.one_of(&self.channels).clone();
        if other != first.channel {
            let second = Draft { channel: other, ..first.clone() };
            self.publish(vec![first, second]).await;
        }
    }

    async fn publish(&mut self, drafts: Vec<Draft>) -> Vec<Result<Receipt, PublishError>> {
        let answers = match &drafts[..] {
            [draft] => vec![self.hub.publish(&self.client, draft.clone()).await],
            _ => self.hub.publish_batch(&self.client, drafts.clone()).await,
        };
        for (draft, answer) in drafts.iter().zip(&answers) {
            match answer {
                Ok(receipt) => self.told(draft, receipt),
                Err(error) => {
                    self.book.note(format_args!("{} is not taken: {error}", draft.channel));
                    self.book.count(match error {
                        PublishError::Busy(_) => "a publisher was told to come back",
                        PublishError::Store(_) => "a publisher was told of the store",
                        PublishError::Refused(_) | PublishError::Stopping => "a publisher was sent away",
                    });
                }
            }
        }
        if !self.weather.is_stormy() {
            // What the storm left in the lane is still in the way.
            sleep(Duration::from_millis(1)).await;
        }
        answers
    }

    fn told(&mut self, draft: &Draft, receipt: &Receipt) {
        let payload = String::from_utf8_lossy(&draft.message.payload);
        self.book.count("a publication was acknowledged");
        self.book.note(format_args!("{} {} is {payload}", receipt.channel, receipt.offset));
        self.book.acknowledged(receipt.channel.as_str(), receipt.epoch, receipt.offset, &payload, receipt.duplicate);
        let last = self.last.entry((receipt.channel.clone(), receipt.epoch.0)).or_default();
        if receipt.offset <= *last && !receipt.duplicate {
            self.book.breaks(Class::Order, format!("after {last} its publisher is told of {receipt:?}"));
        }
        *last = receipt.offset.max(*last);
    }
}
