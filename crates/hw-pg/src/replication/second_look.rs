//! Is a walsender that says nothing busy, or is the connection to it dead?
//!
//! Majors 14 and 15 say nothing for minutes while they skip a large transaction of tables that are
//! not published; a connection that a router has forgotten says nothing for ever. In: where the
//! server is and the walsender's process id. Out: what another connection sees of it.

use crate::config::ConnectConfig;
use crate::sql;
use std::time::Duration;

/// How long the look may take altogether.
const PATIENCE: Duration = Duration::from_secs(4);

/// How often the walsender is looked at: one that decodes what others write is found at work now
/// and then although it has nothing to say to us.
const LOOKS: u32 = 5;

/// Time between two looks.
const BETWEEN: Duration = Duration::from_millis(100);

/// What is asked. No row: the process is gone. `true`: it waits for us or for the log, and so
/// would have answered. Source: PostgreSQL manual, "Wait Event Types".
const WAITS: &str = "SELECT coalesce(wait_event_type IN ('Activity', 'Client'), false) \
                     FROM pg_catalog.pg_stat_activity WHERE pid = $1";

/// Whether the walsender is at work and may go on being silent.
pub(crate) async fn is_busy(config: &ConnectConfig, pid: u32) -> bool {
    tokio::time::timeout(PATIENCE, at_work(config, pid)).await.unwrap_or(false)
}

async fn at_work(config: &ConnectConfig, pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return false };
    let config = config.with_application_name("headwater watch");
    let Ok((client, _driver)) = sql::connect(&config).await else { return false };
    for _ in 0..LOOKS {
        match client.query_opt(WAITS, &[&pid]).await {
            Ok(Some(row)) if !row.get::<_, bool>(0) => {}
            _ => return false,
        }
        tokio::time::sleep(BETWEEN).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw_testkit::{Cluster, poll_until};

    #[tokio::test]
    async fn a_process_at_work_is_told_from_one_that_waits_and_from_none() {
        let cluster = Cluster::start();
        let (config, _) = ConnectConfig::parse(&cluster.url("postgres")).expect("valid");
        let (worker, _driver) = sql::connect(&config).await.expect("connected");
        let row = worker.query_one("SELECT pg_backend_pid()", &[]).await.expect("asked");
        let pid = u32::try_from(row.get::<_, i32>(0)).expect("a process id");
        assert!(!is_busy(&config, pid).await, "it waits for the next question");
        let work = tokio::spawn(async move {
            worker.query("SELECT count(*) FROM generate_series(1, 100000000000)", &[]).await
        });
        poll_until("it is seen at work", || async { is_busy(&config, pid).await.then_some(()) })
            .await;
        let admin = cluster.client("postgres").await;
        let pid_there = i32::try_from(pid).expect("a process id");
        admin.execute("SELECT pg_cancel_backend($1)", &[&pid_there]).await.expect("asked to stop");
        assert!(work.await.expect("no panic").is_err());
        poll_until("it is gone", || async { (!is_busy(&config, pid).await).then_some(()) }).await;
        assert!(!is_busy(&config, u32::MAX).await);
    }
}
