//! What the operating system keeps for this process and its children: identities, open files,
//! parent-death signals.
//!
//! The only file of this crate with `unsafe`: plain system calls without memory of their own.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

/// The number of the user that this process runs as.
pub fn user() -> u32 {
    #[expect(unsafe_code, reason = "geteuid cannot fail and touches no memory")]
    let uid = unsafe { libc::geteuid() };
    uid
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    user() == 0
}

/// Makes everything that this process creates from now on its owner's alone.
pub fn create_for_the_owner_alone() {
    #[expect(unsafe_code, reason = "umask cannot fail and touches no memory")]
    let _ = unsafe { libc::umask(0o077) };
}

/// A SIGHUP that comes before a server listens to signals asks it to read again what it has not
/// read yet; by default it would end the process.
pub fn pass_over_early_hangups() {
    #[expect(unsafe_code, reason = "no handler of ours runs")]
    let _ = unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}

/// Asks the kernel not to back this process's memory with huge pages.
///
/// Measured on small runs: with them an idle gzip client costs about twice the memory and a
/// copied row about a third more CPU, most of it for clearing pages that nobody uses. Children
/// inherit it, which Postgres recommends for itself, too. Without effect where the kernel has no
/// such switch.
pub fn without_huge_pages() {
    #[cfg(target_os = "linux")]
    {
        #[expect(unsafe_code, reason = "the call takes numbers only and touches no memory")]
        let _ = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    }
}

/// Resident memory of this process in bytes, pages of mapped files among it. Unset where the
/// system does not tell.
pub fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}

/// Raises the soft limit of open files so that `wanted` sockets and the store fit, as far as the
/// hard limit allows.
///
/// - Returns: the soft limit that now holds.
/// - Errors: of the system calls; the limit is then what it was.
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[expect(unsafe_code, reason = "the pointer is to a local that outlives the call")]
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    if read != 0 {
        return Err(io::Error::last_os_error());
    }
    let target = wanted.min(limit.rlim_max);
    if target <= limit.rlim_cur {
        return Ok(limit.rlim_cur);
    }
    limit.rlim_cur = target;
    #[expect(unsafe_code, reason = "the pointer is to a local that outlives the call")]
    let written = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    if written != 0 { Err(io::Error::last_os_error()) } else { Ok(target) }
}

/// Sends `signal` to a child that is still running. A child that has ended is left alone.
pub fn signal(child: &mut Child, signal: i32) {
    let running = matches!(child.try_wait(), Ok(None));
    if let Some(pid) = i32::try_from(child.id()).ok().filter(|_| running) {
        #[expect(unsafe_code, reason = "the child is not reaped yet, so the id is still its own")]
        unsafe {
            libc::kill(pid, signal);
        }
    }
}

/// Starts a child that does not outlive this process: it stands in a process group of its own, so
/// that Ctrl-C reaches only us, and on Linux it receives `death_signal` when we end in whatever
/// way.
///
/// The kernel sends that signal when the *thread* that started the child ends, so children are
/// started by one thread that lives as long as the process.
pub fn spawn_bound(mut command: Command, death_signal: i32) -> io::Result<Child> {
    command.process_group(0);
    bind_to_parent(&mut command, death_signal);
    let (answer, reply) = channel();
    nursery()
        .send(Order { command, answer })
        .map_err(|_| io::Error::other("the thread that starts children is gone"))?;
    reply.recv().map_err(|_| io::Error::other("the thread that starts children is gone"))?
}

#[cfg(target_os = "linux")]
fn bind_to_parent(command: &mut Command, death_signal: i32) {
    let parent = std::process::id();
    #[expect(unsafe_code, reason = "the closure makes two system calls and allocates nothing")]
    unsafe {
        // Runs behind the change of user, which would clear the setting.
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, death_signal as libc::c_ulong) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the setting took hold.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn bind_to_parent(_command: &mut Command, _death_signal: i32) {}

struct Order {
    command: Command,
    answer: Sender<io::Result<Child>>,
}

fn nursery() -> &'static Sender<Order> {
    static NURSERY: OnceLock<Sender<Order>> = OnceLock::new();
    NURSERY.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        let _ = std::thread::Builder::new().name("children".to_owned()).spawn(move || {
            for mut order in inbox {
                let _ = order.answer.send(order.command.spawn());
            }
        });
        orders
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_raised_and_never_lowered() {
        let now = raise_open_files(0).expect("readable");
        assert!(raise_open_files(now).expect("unchanged") == now);
        assert!(raise_open_files(u64::MAX).expect("up to the hard limit") >= now);
    }

    #[test]
    fn a_bound_child_can_be_signalled() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let mut child = spawn_bound(command, libc::SIGKILL).expect("started");
        signal(&mut child, libc::SIGTERM);
        let status = child.wait().expect("ended");
        assert!(!status.success());
        signal(&mut child, libc::SIGTERM);
    }
}
