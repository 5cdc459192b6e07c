//! The parts of the process that it cannot do without: threads and tasks in the background, whose
//! death nobody would notice.
//!
//! Invariant: none of them ends by a panic while the process goes on. A server whose writer is
//! dead looks well from outside and shows nobody anything new, and one whose follower of policies is
//! dead shows what was revoked; its supervisor restarts one that has ended, and a restart at any
//! instant loses nothing (E-2).
//!
//! Work of one request is no such part: whoever waits for it is told that it failed.

pub mod failpoint;

use futures_util::FutureExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

/// Stable codes of this crate's findings.
pub mod code {
    /// A defect has ended a part that the server cannot do without, and the process with it. Its supervisor
    /// starts it again.
    pub const DEFECT: u16 = 3110;
}

/// Exit status of a process that ends because of a defect (EX_SOFTWARE).
const EXIT: i32 = 70;

/// Starts a thread. Its panic ends the process.
///
/// - Errors: the operating system gives no thread.
pub fn start(
    name: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(move || vital_work(name, work))
}

/// Starts a task. Its panic ends the process.
pub fn spawn(name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(vital(name, work));
}

/// What a future comes to, for a task that somebody else starts. Its panic ends the process.
pub async fn vital<T>(name: &str, work: impl Future<Output = T>) -> T {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| end(name))
}

/// What a function comes to, for a thread that somebody else starts. Its panic ends the process.
pub fn vital_work<T>(name: &str, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| end(name))
}

/// The panic's own message has been printed by the hook.
fn end(name: &str) -> ! {
    tracing::error!(
        code = format_args!("HW{:04}", code::DEFECT),
        part = name,
        mend = "let a supervisor start the server again, and report the panic above",
        "a defect has ended a part that the server cannot do without; the process ends"
    );
    std::process::exit(EXIT)
}
