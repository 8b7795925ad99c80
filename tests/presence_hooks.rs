//! **The rules hear who comes and goes**: once each, in order, however a subscription begins and ends.

use std::sync::Arc;

use aether::kernel::hooks::{Client, Identity};
use aether::kernel::session::Start;

use crate::common::kernel::{Kernel, Rules, channel, client, listen};

fn heard(rules: &Rules) -> Vec<String> {
    std::mem::take(&mut *rules.presence.lock())
}

/// The same connection as another user.
fn as_user(client: &Client, user: &str) -> Arc<Client> {
    client.with(Identity { user: Some(user.into()), ..Identity::default() })
}

#[tokio::test]
async fn a_subscription_is_told_when_it_begins_and_when_it_ends_however_it_ends() {
    let rules = Arc::new(Rules::default());
    let kernel = Kernel::start(rules.clone());
    let mut ann = kernel.session("ann");
    listen(&mut ann, "a", Start::Now).await;
    listen(&mut ann, "b", Start::After(0, None)).await;
    assert_eq!(heard(&rules), ["+ann a", "+ann b"]);
    rules.closed.lock().insert("c".into());
    assert!(ann.subscribe(channel("c"), Start::Now).await.is_err());
    assert!(ann.unsubscribe("a") && !ann.unsubscribe("a"));
    assert_eq!(heard(&rules), ["-ann a"]);
    listen(&mut ann, "a", Start::Now).await;
    rules.closed.lock().insert("b".into());
    let ended = ann.becomes(client("ann")).await;
    assert_eq!(ended.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(heard(&rules), ["+ann a", "-ann b"], "who stays is not told again");
    ann.end();
    drop(ann);
    assert_eq!(heard(&rules), ["-ann a"]);
}

#[tokio::test]
async fn another_user_on_the_same_connection_comes_and_the_first_one_goes() {
    let rules = Arc::new(Rules::default());
    let kernel = Kernel::start(rules.clone());
    let first = as_user(&client("c1"), "ann");
    let mut session = aether::kernel::session::Session::new(kernel.hub.clone(), first.clone(), kernel.format.clone());
    listen(&mut session, "a", Start::Now).await;
    session.becomes(as_user(&first, "ann")).await;
    assert_eq!(heard(&rules), ["+c1 a"], "a new credential of the same user is no news");
    session.becomes(as_user(&first, "bob")).await;
    assert_eq!(heard(&rules), ["-c1 a", "+c1 a"]);
    let present = kernel.hub.listeners(&channel("a"));
    assert_eq!(present[0].identity.user.as_deref(), Some("bob"));
}
