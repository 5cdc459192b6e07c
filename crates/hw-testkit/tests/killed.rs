//! A test process that is killed leaves no server behind.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use hw_testkit::{Cluster, poll_until};

const CHILD: &str = "HEADWATER_TESTKIT_CHILD";

/// Runs itself as a child process that starts a cluster and hangs, and kills that with SIGKILL.
#[tokio::test]
async fn a_killed_test_process_takes_its_server_with_it_and_its_files_go_with_the_next_start() {
    if std::env::var_os(CHILD).is_some() {
        let cluster = Cluster::start();
        eprintln!("cluster {} {}", cluster.port(), cluster.data_dir().display());
        std::future::pending::<()>().await;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("killed::a_killed_test_process_takes_its_server_with_it_and_its_files_go_with_the_next_start")
        .env(CHILD, "1")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.map_while(Result::ok).find(|line| line.starts_with("cluster ")).unwrap();
    let mut words = line.split(' ').skip(1);
    let port: u16 = words.next().unwrap().parse().unwrap();
    let data = std::path::PathBuf::from(words.next().unwrap());
    assert!(data.exists());

    child.kill().unwrap();
    child.wait().unwrap();
    poll_until("the server is gone", || async {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())
    })
    .await;
    let _next = Cluster::start();
    assert!(!data.exists());
}
