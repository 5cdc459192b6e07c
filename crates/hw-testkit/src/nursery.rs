//! The thread that starts servers for the whole test process.
//!
//! The kernel's parent-death signal fires when the *thread* that started a child ends, not when the
//! process does. Test threads and threads of an async runtime come and go, so servers are started
//! by one thread that lives as long as the process. Then a test process that is killed without a
//! chance to clean up still takes its servers with it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

struct Order {
    command: Command,
    answer: Sender<io::Result<Child>>,
}

/// Starts `command` in a process group of its own; it receives `death_signal` when this process
/// ends in whatever way.
pub(crate) fn spawn(mut command: Command, death_signal: i32) -> io::Result<Child> {
    let parent = std::process::id();
    command.process_group(0);
    #[expect(unsafe_code, reason = "the closure makes two system calls and allocates nothing")]
    unsafe {
        // Runs after the change of user, which would clear the setting.
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, death_signal as libc::c_ulong) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the setting took hold.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::other("the test process is gone"));
            }
            Ok(())
        });
    }
    let (answer, reply) = channel();
    nursery().send(Order { command, answer }).expect("the nursery thread never ends");
    reply.recv().expect("the nursery thread answers every order")
}

fn nursery() -> &'static Sender<Order> {
    static NURSERY: OnceLock<Sender<Order>> = OnceLock::new();
    NURSERY.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::Builder::new()
            .name("testkit-nursery".to_owned())
            .spawn(move || {
                for mut order in inbox {
                    let _ = order.answer.send(order.command.spawn());
                }
            })
            .expect("a thread can be started");
        orders
    })
}
