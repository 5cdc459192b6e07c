//! Measures what choosing the store's settings needs: durable batches and bulk loads of rows with
//! keys of 16 bytes and values of 200 bytes, then scans and point reads of them.
//!
//! `cargo run --release -p hw-store --example bulk [-- rows [workers [spaces]]]`. The directory is a new one
//! below `TMPDIR`; figures of a directory in memory say nothing about syncs.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;

use hw_store::{Batch, Store, StoreOptions};

const ROW_BYTES: f64 = 216.0;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let rows: u64 = arguments.next().map_or(Ok(2_000_000), |text| text.parse())?;
    let workers: usize = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let count: usize = arguments.next().map_or(Ok(500), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    let mut options = StoreOptions::new(dir.path());
    if workers > 0 {
        options.workers = workers;
    }
    println!("{rows} rows, {} workers", options.workers);
    let store = Store::open(&options)?;
    spaces(&store, count)?;
    batches(&store, rows)?;
    bulk(&store, rows)?;
    scan(&store, rows)?;
    let statistics = store.statistics();
    println!("{statistics:?}");
    let opening = Instant::now();
    drop(store);
    let closed = opening.elapsed();
    Store::open(&options)?;
    println!("close {closed:.2?}, open {:.2?}", opening.elapsed() - closed);
    Ok(())
}

/// Many spaces with few writes each, as tables and bucket sources have.
fn spaces(store: &Store, count: usize) -> Result<(), Box<dyn Error>> {
    let measure = Measure::start(&format!("creating {count} spaces"));
    let kinds = ["rows", "ops", "buckets", "lookups"];
    let name = |n: usize| format!("{}.{}", kinds[n % 4], n / 4);
    let spaces = (0..count).map(|n| store.space(&name(n))).collect::<Result<Vec<_>, _>>()?;
    measure.stop(count as u64);
    let measure = Measure::start("batches over all of them");
    for round in 0..500u64 {
        let mut batch = Batch::with_capacity(1000);
        for n in 0..1000u64 {
            let space = (n / 2 + round * 500) as usize % count;
            batch.put(&spaces[space], key(mix(round), n), value(n));
        }
        store.commit(batch)?;
    }
    measure.stop(500_000);
    Ok(())
}

/// Batches of 1,000 puts in two spaces, synced by another thread whenever something is pending.
fn batches(store: &Store, rows: u64) -> Result<(), Box<dyn Error>> {
    let (ops, index) = (store.space("ops.live")?, store.space("rows.live")?);
    let mut longest = std::time::Duration::ZERO;
    let measure = Measure::start("batches");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                store.sync().expect("the disk takes syncs");
                std::thread::yield_now();
            }
        });
        for first in (0..rows).step_by(1000) {
            let mut batch = Batch::with_capacity(1000);
            for n in (first..rows.min(first + 1000)).step_by(2) {
                // Operations arrive in the order of buckets' ends, rows in any order.
                batch.put(&ops, key(n % 5_000, n), value(n));
                batch.put(&index, key(mix(n), n), value(n));
            }
            let began = Instant::now();
            store.commit(batch)?;
            longest = longest.max(began.elapsed());
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    })?;
    store.sync()?;
    measure.stop(rows);
    println!("  longest commit {longest:.2?}");
    Ok(())
}

fn bulk(store: &Store, rows: u64) -> Result<(), Box<dyn Error>> {
    let space = store.space("rows.copied")?;
    let measure = Measure::start("bulk load");
    let mut load = store.bulk(&space)?;
    for n in 0..rows {
        load.push(&key(n, n), &value(n))?;
    }
    load.finish()?;
    measure.stop(rows);
    Ok(())
}

fn scan(store: &Store, rows: u64) -> Result<(), Box<dyn Error>> {
    let snapshot = store.snapshot();
    for name in ["rows.copied", "ops.live", "rows.live"] {
        let space = store.space(name)?;
        let measure = Measure::start(&format!("scan of {name}"));
        let mut count = 0;
        for pair in snapshot.all(&space) {
            pair?;
            count += 1;
        }
        measure.stop(count);
        let measure = Measure::start(&format!("point reads of {name}"));
        let reads = 200_000;
        for n in 0..reads {
            let n = mix(n) % rows;
            let n = if name == "rows.copied" { n } else { n & !1 };
            let key = match name {
                "rows.copied" => key(n, n),
                "ops.live" => key(n % 5_000, n),
                _ => key(mix(n), n),
            };
            snapshot.get(&space, &key)?.ok_or("a row is missing")?;
        }
        measure.stop(reads);
    }
    let ops = store.space("ops.live")?;
    let measure = Measure::start("tails of 4");
    let reads = 50_000;
    for n in 0..reads {
        let bucket = (mix(n) % 2_500) * 2;
        for pair in snapshot.prefix(&ops, &bucket.to_be_bytes()).rev().take(4) {
            pair?;
        }
    }
    measure.stop(reads);
    Ok(())
}

fn key(first: u64, second: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&first.to_be_bytes());
    key[8..].copy_from_slice(&second.to_be_bytes());
    key
}

/// About as compressible as a row's JSON.
fn value(n: u64) -> Vec<u8> {
    let mut text = format!(
        r#"{{"id":"{:016x}","list_id":"{:016x}","description":"task number {n}","done":{}"#,
        mix(n),
        mix(n % 5_000),
        n.is_multiple_of(3)
    );
    while text.len() < 180 {
        text.push_str(&format!(r#","{:04x}""#, mix(n + text.len() as u64) & 0xffff));
    }
    text.truncate(200);
    let mut text = text.into_bytes();
    text.resize(200, b' ');
    text
}

/// Spreads numbers, always in the same way.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

struct Measure {
    what: String,
    began: Instant,
    cpu: f64,
}

impl Measure {
    fn start(what: &str) -> Measure {
        Measure { what: what.to_owned(), began: Instant::now(), cpu: cpu_seconds() }
    }

    fn stop(self, rows: u64) {
        let seconds = self.began.elapsed().as_secs_f64();
        let cpu = cpu_seconds() - self.cpu;
        let rows = rows as f64;
        println!(
            "{:24} {:7.1} MB/s {:10.0} rows/s {:6.2} us CPU per row, {} MB resident",
            self.what,
            rows * ROW_BYTES / seconds / 1e6,
            rows / seconds,
            cpu * 1e6 / rows,
            resident_megabytes(),
        );
    }
}

/// User and system time of all threads of this process.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    // The kernel reports in hundredths of a second on every platform we run on.
    ticks / 100.0
}

fn resident_megabytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or_default() / 1024
}
