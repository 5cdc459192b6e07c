//! Who is woken by a publication, and who is not.

use std::sync::Arc;

use hw_sync::hub::{Hub, Listener};
use hw_sync::source::{Asker, Interest, Source, UserLimits, View};
use tokio_util::sync::CancellationToken;

use crate::twin::{Twin, TwinView};

struct Room {
    twin: Twin,
    hub: Arc<Hub<TwinView>>,
    published: u64,
}

impl Room {
    fn new() -> Room {
        let (twin, hub) = (Twin::new(), Arc::<Hub<TwinView>>::default());
        let (dispatcher, source) = (hub.clone(), twin.clone());
        tokio::spawn(async move { dispatcher.run(source, CancellationToken::new()).await });
        Room { twin, hub, published: 0 }
    }

    /// Publishes, and waits until everyone concerned was rung.
    async fn publish(&mut self) {
        self.twin.publish();
        self.published += 1;
        while self.hub.dispatched() < self.published {
            tokio::task::yield_now().await;
        }
    }

    /// A listener with the buckets that the user has now, resolved from the newest state.
    fn listen(&self, user: &str) -> (Listener<TwinView>, u64, Interest<u64, u64>) {
        let listener = self.hub.listen(user);
        let view = self.twin.newest();
        let asker = Asker {
            claims: serde_json::json!({ "sub": user }),
            parameters: hw_sync::wire::document::Document::default(),
            subscriptions: vec![],
            include_defaults: true,
            user: user.into(),
            user_key: user.into(),
        };
        let resolved = view.resolve(&asker, &UserLimits::default(), &[]).unwrap();
        (listener, view.number(), resolved.interest)
    }
}

#[tokio::test]
async fn a_publication_rings_those_whose_buckets_lookups_or_numbers_it_changed() {
    let mut room = Room::new();
    room.twin.join("amy", "a");
    room.twin.join("bob", "b");
    room.publish().await;
    let (mut amy, number, interest) = room.listen("amy");
    amy.attend(number, interest);
    let (mut bob, number, interest) = room.listen("bob");
    bob.attend(number, interest);

    room.twin.put("a", "t1", "x");
    room.publish().await;
    assert_eq!((amy.bell().heard(), bob.bell().heard()), (Some(2), None));
    room.twin.join("bob", "c");
    room.publish().await;
    assert_eq!((amy.bell().heard(), bob.bell().heard()), (None, Some(3)));
    room.twin.write_checkpoint("amy", None).await.unwrap();
    room.published += 1;
    room.publish().await;
    assert_eq!((amy.bell().heard(), bob.bell().heard()), (Some(4), None));
    room.twin.configure(&["lists"]);
    room.publish().await;
    assert!(amy.bell().is_rung() && bob.bell().is_rung());
    // What was not heard is remembered by its first publication.
    room.twin.put("b", "t1", "x");
    room.publish().await;
    assert_eq!(bob.bell().heard(), Some(6));
}

#[tokio::test]
async fn what_was_dispatched_before_a_listener_attended_rings_it_at_once() {
    let mut room = Room::new();
    room.twin.join("amy", "a");
    room.publish().await;
    let (mut amy, number, interest) = room.listen("amy");
    room.twin.put("a", "t1", "x");
    room.publish().await;
    assert!(!amy.bell().is_rung(), "the bucket is not known yet");
    amy.attend(number, interest);
    amy.bell().rung().await;
    assert_eq!(amy.bell().heard(), Some(2));
}

#[tokio::test]
async fn a_listener_that_moves_on_or_leaves_is_no_longer_in_the_index() {
    let mut room = Room::new();
    for bucket in ["a", "b"] {
        room.twin.join("amy", bucket);
    }
    room.publish().await;
    let (mut amy, number, interest) = room.listen("amy");
    let both = interest.buckets.clone();
    amy.attend(number, interest);
    assert_eq!(room.hub.sizes(), (2, 1, 1));
    let (first, lookups) = (vec![both[0], both[0]], vec![]);
    amy.attend(number, Interest { buckets: first, lookups });
    assert_eq!(room.hub.sizes(), (1, 0, 1));
    let (mut second, number, interest) = room.listen("amy");
    second.attend(number, interest);
    assert_eq!(room.hub.sizes(), (2, 1, 1));
    drop(second);
    drop(amy);
    assert_eq!(room.hub.sizes(), (0, 0, 0));
}
