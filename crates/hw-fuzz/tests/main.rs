//! Every day's run of the fuzz targets: the corpus, and the same few mutations of it each time.
//!
//! What `make fuzz` finds goes into `fuzz/corpus/<target>/`, and stays found.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use hw_fuzz::{TARGETS, Target};

/// Mutations of each target; any number by hand, in `HW_FUZZ_MUTATIONS`.
const MUTATIONS: u64 = 1_500;

/// Deterministic, so that a failure can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        // The constants are Knuth's (MMIX); only the upper bits are good.
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % limit.max(1)
    }
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let directory =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target.name);
    let entries = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).expect("readable");
        (path, bytes)
    };
    files.into_iter().map(read).collect()
}

/// One input from another: bytes changed, left out, repeated, or taken from a third one.
fn mutate(random: &mut Random, corpus: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].1.clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(16)).min(bytes.len());
        match random.below(6) {
            0 => bytes.insert(at, random.below(256) as u8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            3 => {
                // Lengths and counts at their ends.
                let extremes: [&[u8]; 5] =
                    [&[0xff; 4], &[0; 4], &[0x7f, 0xff, 0xff, 0xff], &[0x80, 0, 0, 0], &[0xff; 9]];
                let value = extremes[random.below(extremes.len())];
                bytes.splice(at..end.min(at + value.len()), value.iter().copied());
            }
            4 => {
                let other = &corpus[random.below(corpus.len())].1;
                let from = random.below(other.len() + 1);
                let to = (from + random.below(64)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
    bytes
}

fn run(target: &Target, what: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.fuzz)(input))).is_err() {
        panic!("{}: {what} is a finding: {}", target.name, input.escape_ascii());
    }
}

fn check(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    let corpus = corpus(target);
    assert!(corpus.len() >= 3, "{name} has a corpus");
    run(target, "nothing", b"");
    for (path, bytes) in &corpus {
        run(target, &path.display().to_string(), bytes);
    }
    let mutations = std::env::var("HW_FUZZ_MUTATIONS").ok().and_then(|text| text.parse().ok());
    for seed in 0..mutations.unwrap_or(MUTATIONS) {
        let input = mutate(&mut Random(seed), &corpus);
        run(target, &format!("mutation {seed}"), &input);
    }
}

macro_rules! targets {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })+

        /// A new target gets its line here, its program in `fuzz/`, and a corpus.
        #[test]
        fn every_target_is_tested_and_has_a_program() {
            let tested = [$(stringify!($name)),+];
            let named: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(named, tested);
            let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/fuzz_targets");
            for name in tested {
                assert!(programs.join(name).with_extension("rs").exists(), "{name}");
            }
        }
    };
}

targets!(
    sync_request,
    upload,
    datasync_message,
    token,
    claims,
    jwks,
    replication,
    pgoutput,
    copy,
    marker,
    binary_value,
    text_value,
    canonical_value,
    row,
    spooled_change,
    segment,
    engine_record,
    sync_config,
    sql,
    eval_case,
    settings,
    policy,
);
