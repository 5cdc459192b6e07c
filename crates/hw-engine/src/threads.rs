//! Threads and tasks that the server cannot do without.
//!
//! Invariant: none of them ends by a panic while the process goes on. A server whose writer is
//! dead looks well from outside and shows nobody anything new; its supervisor restarts one that
//! has ended, and a restart at any instant loses nothing (E-2).

use crate::error::EngineError;
use futures_util::FutureExt;
use hw_types::Diagnostic;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

/// Exit status of a process that ends because of a defect (EX_SOFTWARE).
const DEFECT: i32 = 70;

/// Exit status of a process that cannot go on before a person has mended something: that of a start
/// which is refused.
const REFUSED: i32 = 2;

/// Starts a thread. Its panic ends the process.
///
/// - Errors: the operating system gives no thread.
pub(crate) fn start(
    name: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, EngineError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                end(name);
            }
        })
        .map_err(|error| EngineError::Source(format!("start the thread {name}: {error}")))
}

/// Starts a task. Its panic ends the process.
pub fn spawn(name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            end(name);
        }
    });
}

/// Ends the process: nothing but a person can mend this.
pub(crate) fn refuse(finding: &Diagnostic) -> ! {
    finding.log();
    std::process::exit(REFUSED)
}

/// The panic's own message has been printed by the hook.
fn end(name: &str) -> ! {
    tracing::error!(
        thread = name,
        "a defect has ended a part that the server cannot do without; the process ends, its supervisor should start it again"
    );
    std::process::exit(DEFECT)
}
