//! Markers: transactional messages in the source's log that answer "has everything up to now
//! arrived?" (`design/engine.md` 9).
//!
//! A write checkpoint's record travels inside the marker, so the log is its durable, ordered
//! storage. Requests that arrive together share one marker.

use crate::replica::Replica;
use hw_pg::config::ConnectConfig;
use hw_types::Lsn;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// What a marker of ours says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkerContents {
    /// Tells markers apart; a table copy waits for its own.
    #[serde(rename = "n")]
    pub nonce: u64,
    /// Write checkpoints that this marker's arrival completes.
    #[serde(rename = "w", default, skip_serializing_if = "Vec::is_empty")]
    pub write_checkpoints: Vec<WriteCheckpoint>,
}

/// A write checkpoint's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteCheckpoint {
    /// `<sub>/<client id>` or `<sub>`.
    #[serde(rename = "k")]
    pub user_key: String,
    /// The client's own number; without one the marker's position is the number.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<u64>,
}

impl WriteCheckpoint {
    /// Bytes that it takes in a marker, with what separates it from the next one.
    fn encoded_len(&self) -> usize {
        serde_json::to_vec(self).expect("numbers and texts are JSON").len() + 1
    }
}

impl MarkerContents {
    /// Reads verified contents. Contents of a newer version that cannot be read say nothing.
    pub fn decode(contents: &[u8]) -> MarkerContents {
        serde_json::from_slice(contents).unwrap_or_default()
    }

    /// The contents as bytes.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and texts are JSON")
    }
}

/// A request for a marker.
struct Request {
    write_checkpoint: Option<WriteCheckpoint>,
    /// A nonce that somebody waits for.
    nonce: Option<u64>,
    reply: oneshot::Sender<Result<Marked, String>>,
}

/// A marker that was written.
#[derive(Clone, Copy, Debug)]
pub struct Marked {
    /// Where it stands in the log.
    pub lsn: Lsn,
    /// Tells it apart from all others.
    pub nonce: u64,
}

/// Where markers are asked for.
#[derive(Clone)]
pub(crate) struct Markers {
    requests: mpsc::Sender<Request>,
}

/// What was asked for.
pub(crate) struct Requests(mpsc::Receiver<Request>);

/// Why there is no marker.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// The source failed or does not answer.
    #[error("source: {0}")]
    Source(String),
    /// Nobody writes markers any more.
    #[error("the input is closed")]
    Closed,
}

/// Requests that share one marker at most.
const BATCH: usize = 1_000;

/// Bytes of write checkpoints that share one marker at most, far below
/// [`hw_pg::marker::MAX_CONTENTS`].
const BATCH_BYTES: usize = 512 << 10;

/// How long a request waits for the source.
const LIMIT: Duration = Duration::from_secs(10);

/// What whoever waited for so long is told.
const SILENT: &str = "the source does not answer";

impl Markers {
    pub fn new() -> (Markers, Requests) {
        let (requests, queue) = mpsc::channel(4 * BATCH);
        (Markers { requests }, Requests(queue))
    }

    /// Records a write checkpoint in the log; returns the marker's position.
    pub async fn write_checkpoint(
        &self,
        user_key: &str,
        requested: Option<u64>,
    ) -> Result<Lsn, MarkerError> {
        let user_key = user_key.to_owned();
        let write_checkpoint = Some(WriteCheckpoint { user_key, requested });
        Ok(self.send(write_checkpoint, None).await?.lsn)
    }

    /// Writes a marker whose arrival is recognised by its nonce.
    pub async fn mark(&self, nonce: u64) -> Result<Lsn, MarkerError> {
        Ok(self.send(None, Some(nonce)).await?.lsn)
    }

    /// Writes a marker together with all who want one now.
    pub async fn mark_together(&self) -> Result<Marked, MarkerError> {
        self.send(None, None).await
    }

    async fn send(
        &self,
        write_checkpoint: Option<WriteCheckpoint>,
        nonce: Option<u64>,
    ) -> Result<Marked, MarkerError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { write_checkpoint, nonce, reply };
        // A queue that is full because of a source that hangs is waited for no longer than its answer.
        let asked = async {
            self.requests.send(request).await.map_err(|_| MarkerError::Closed)?;
            answer.await.map_err(|_| MarkerError::Closed)?.map_err(MarkerError::Source)
        };
        let late = || Err(MarkerError::Source(String::from(SILENT)));
        tokio::time::timeout(LIMIT, asked).await.unwrap_or_else(|_| late())
    }
}

/// Writes markers over a connection of its own, one at a time, with everything that waits.
pub(crate) async fn run(
    config: ConnectConfig,
    replica: Arc<dyn Replica>,
    mut stop: watch::Receiver<bool>,
    Requests(mut requests): Requests,
) {
    let mut connection: Option<tokio_postgres::Client> = None;
    let mut batch = Vec::new();
    loop {
        let count = tokio::select! {
            count = requests.recv_many(&mut batch, BATCH) => count,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        if count == 0 {
            return;
        }
        // Who has given up would only keep the others waiting.
        let awaited = batch.drain(..).filter(|request: &Request| !request.reply.is_closed());
        for group in groups(awaited) {
            let contents = contents(&group);
            let secret = replica.secret();
            let emitted = emit(&config, &secret, &mut connection, &contents);
            // A connection that hangs is left behind with what was asked on it.
            let outcome = tokio::time::timeout(LIMIT, emitted).await;
            let outcome = outcome.unwrap_or_else(|_| Err(String::from(SILENT)));
            let outcome = outcome.map(|lsn| Marked { lsn, nonce: contents.nonce });
            for request in group {
                let _ = request.reply.send(outcome.clone());
            }
        }
    }
}

/// Requests by the marker that they share.
fn groups(batch: impl Iterator<Item = Request>) -> Vec<Vec<Request>> {
    // A request with a nonce of its own cannot share its marker with another such request.
    let (alone, sharing): (Vec<_>, Vec<_>) = batch.partition(|request| request.nonce.is_some());
    let mut groups: Vec<Vec<Request>> = alone.into_iter().map(|request| vec![request]).collect();
    let (mut group, mut bytes) = (Vec::new(), 0);
    for request in sharing {
        let more = request.write_checkpoint.as_ref().map_or(0, WriteCheckpoint::encoded_len);
        if bytes + more > BATCH_BYTES && !group.is_empty() {
            groups.push(std::mem::take(&mut group));
            bytes = 0;
        }
        bytes += more;
        group.push(request);
    }
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}

/// What the marker of these requests says.
fn contents(group: &[Request]) -> MarkerContents {
    let nonce = group.iter().find_map(|request| request.nonce).unwrap_or_else(random);
    let asked = group.iter().filter_map(|request| request.write_checkpoint.clone());
    MarkerContents { nonce, write_checkpoints: asked.collect() }
}

/// A number that no other marker has.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    u64::from_be_bytes(bytes)
}

async fn emit(
    config: &ConnectConfig,
    secret: &[u8; 32],
    connection: &mut Option<tokio_postgres::Client>,
    contents: &MarkerContents,
) -> Result<Lsn, String> {
    let payload = contents.encode();
    // A connection that went away while it was idle shows only when it is used: one more try.
    for attempt in 0..2 {
        let client = match connection.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => match hw_pg::sql::connect(config).await {
                Ok((client, _)) => client,
                Err(error) => return Err(error.to_string()),
            },
        };
        match hw_pg::marker::emit(&client, secret, &payload).await {
            Ok(emitted) => {
                *connection = Some(client);
                return Ok(emitted.lsn);
            }
            Err(error) if attempt == 1 || !client.is_closed() => return Err(error.to_string()),
            Err(_) => {}
        }
    }
    Err("the connection to the source was lost twice".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_round_trip_and_unknown_ones_say_nothing() {
        let contents = MarkerContents {
            nonce: 7,
            write_checkpoints: vec![
                WriteCheckpoint { user_key: "amy/1".into(), requested: None },
                WriteCheckpoint { user_key: "bob".into(), requested: Some(3) },
            ],
        };
        assert_eq!(MarkerContents::decode(&contents.encode()), contents);
        assert_eq!(MarkerContents::decode(b"\xff"), MarkerContents::default());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_place_in_the_queue_of_a_source_that_hangs() {
        let (markers, _requests) = Markers::new();
        for _ in 0..4 * BATCH {
            let (reply, _) = oneshot::channel();
            let request = Request { write_checkpoint: None, nonce: None, reply };
            markers.requests.send(request).await.expect("there is room");
        }
        let asked = tokio::time::timeout(2 * LIMIT, markers.write_checkpoint("amy", None));
        let answer = asked.await.expect("an answer in time");
        assert!(matches!(&answer, Err(MarkerError::Source(why)) if why == SILENT), "{answer:?}");
    }

    /// Longer ones would be passed over as they come back, and nobody in them would ever be answered.
    #[test]
    fn markers_are_never_longer_than_one_may_be() {
        let client = "\u{1}".repeat(256);
        let request = |n: usize| {
            let user_key = format!("{n}:{}/{client}", "\"".repeat(2000));
            let write_checkpoint = Some(WriteCheckpoint { user_key, requested: None });
            Request {
                write_checkpoint,
                nonce: (n % 100 == 7).then_some(7),
                reply: oneshot::channel().0,
            }
        };
        let mut keys = Vec::new();
        for group in groups((0..BATCH).map(request)) {
            let contents = contents(&group);
            assert!(contents.encode().len() <= hw_pg::marker::MAX_CONTENTS);
            assert_eq!(contents.nonce == 7, group.len() == 1 && group[0].nonce.is_some());
            keys.extend(contents.write_checkpoints.into_iter().map(|asked| asked.user_key));
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), BATCH);
    }
}
