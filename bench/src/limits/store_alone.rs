//! The store without the server around it, with the server's settings: the same bytes written by
//! somebody who has nothing else to do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hw_store::{Batch, Store, StoreOptions};

use crate::limits::raw_copy::Tuples;
use crate::options::Options;
use crate::{Outcome, usage};

/// Writes of one commit, as the server cuts them.
const COMMIT_ROWS: u64 = 1000;

/// What it took.
pub struct Taken {
    /// Until everything was durable.
    pub time: Duration,
    /// Of all threads.
    pub cpu_seconds: f64,
}

/// Bulk-loads copied rows.
pub fn bulk(options: &Options, tuples: &Tuples) -> Outcome<Taken> {
    let dir = options.work_dir()?;
    let store = Store::open(&StoreOptions::new(dir.path()))?;
    let space = store.space("rows")?;
    measured(|| {
        let mut load = store.bulk(&space)?;
        for (key, row) in tuples.iter() {
            load.push(key, row)?;
        }
        load.finish()?;
        Ok(())
    })
}

/// Writes changed rows: for each a row of 200 bytes and an operation of 450 bytes in a bucket, in
/// commits of `group` rows, with a sync running whenever one is due.
pub fn batches(options: &Options, rows: u64, group: u64) -> Outcome<Taken> {
    let dir = options.work_dir()?;
    let store = Store::open(&StoreOptions::new(dir.path()))?;
    let (table, operations, buckets) =
        (store.space("rows")?, store.space("operations")?, store.space("buckets")?);
    let (row, operation) = (filler(200), filler(450));
    let done = AtomicBool::new(false);
    measured(|| {
        std::thread::scope(|scope| -> Outcome<()> {
            let syncing = scope.spawn(|| -> Outcome<()> {
                while !done.load(Ordering::Relaxed) {
                    store.sync()?;
                    std::thread::yield_now();
                }
                Ok(())
            });
            let group = group.clamp(1, COMMIT_ROWS);
            for first in (0..rows).step_by(group as usize) {
                let mut batch = Batch::with_capacity(3 * group as usize);
                for n in first..rows.min(first + group) {
                    let bucket = (n % 10_000) as u32;
                    batch.put(&table, spread(n), stamped(&row, n));
                    let mut key = [0; 12];
                    key[..4].copy_from_slice(&bucket.to_be_bytes());
                    key[4..].copy_from_slice(&n.to_be_bytes());
                    batch.put(&operations, key, stamped(&operation, n));
                    batch.put(&buckets, bucket.to_be_bytes(), [7; 30]);
                }
                store.commit(batch)?;
            }
            done.store(true, Ordering::Relaxed);
            syncing.join().map_err(|_| "the syncing thread broke off")?
        })?;
        Ok(store.sync()?)
    })
}

fn measured(work: impl FnOnce() -> Outcome<()>) -> Outcome<Taken> {
    let cpu = usage::own()?.cpu_seconds;
    let began = Instant::now();
    work()?;
    let time = began.elapsed();
    Ok(Taken { time, cpu_seconds: usage::own()?.cpu_seconds - cpu })
}

/// Text about as compressible as rows are.
fn filler(length: usize) -> Vec<u8> {
    let text = r#"{"id":"","list_id":17,"title":"Item number ","body":"Call back about order "}"#;
    let mut out: Vec<u8> = text.bytes().take(length / 2).collect();
    let mut n = 0;
    while out.len() < length {
        out.extend_from_slice(format!("{:016x}", mix(n)).as_bytes());
        n += 1;
    }
    out.truncate(length);
    out
}

/// A copy that differs from all others in 16 bytes.
fn stamped(text: &[u8], n: u64) -> Vec<u8> {
    let mut out = text.to_vec();
    out[8..24].copy_from_slice(&spread(n));
    out
}

/// 16 bytes in no order, always the same for `n`: what random keys look like.
fn spread(n: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&mix(n + 1).to_be_bytes());
    out[8..].copy_from_slice(&mix(n + 0x9e37_79b9).to_be_bytes());
    out
}

fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
