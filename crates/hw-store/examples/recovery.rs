//! Measures how long a large store takes to open behind a kill.
//!
//! `cargo run --release -p hw-store --example recovery -- dir gigabytes` fills a store in `dir` and kills
//! itself while commits run; run again with the same directory it opens the store and says how long
//! that took.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use hw_store::{Batch, Store, StoreOptions};

const VALUE_BYTES: usize = 200;

/// Commits before the kill: more than the journal may hold.
const COMMITTED_BYTES: u64 = 300 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("which directory?")?);
    let gigabytes: u64 = arguments.next().map_or(Ok(4), |text| text.parse())?;
    let began = Instant::now();
    let exists = dir.exists();
    let store = Store::open(&StoreOptions::new(&dir))?;
    if exists {
        println!("open {:.2?}, {:?}", began.elapsed(), store.statistics());
        return Ok(());
    }
    let rows = (gigabytes << 30) / 8 / VALUE_BYTES as u64;
    for table in 0..8 {
        let space = store.space(&format!("rows.{table}"))?;
        let mut load = store.bulk(&space)?;
        for n in 0..rows {
            load.push(&n.to_be_bytes(), &value(n + table))?;
        }
        load.finish()?;
    }
    println!("loaded in {:.2?}", began.elapsed());
    let spaces =
        (0..8).map(|n| store.space(&format!("rows.{n}"))).collect::<Result<Vec<_>, _>>()?;
    for n in 0..COMMITTED_BYTES / (100 * VALUE_BYTES as u64) {
        let mut batch = Batch::with_capacity(100);
        for m in 0..100 {
            let key = mix(n * 100 + m) % rows;
            batch.put(&spaces[(m % 8) as usize], key.to_be_bytes(), value(n + m));
        }
        store.commit(batch)?;
        if n.is_multiple_of(100) {
            store.sync()?;
        }
    }
    println!("{:?}", store.statistics());
    std::process::abort();
}

/// Bytes that do not compress.
fn value(n: u64) -> Vec<u8> {
    (0..VALUE_BYTES as u64 / 8).flat_map(|part| mix(n * 31 + part).to_be_bytes()).collect()
}

/// Spreads numbers, always in the same way.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
