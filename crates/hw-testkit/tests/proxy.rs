//! The fault proxy does exactly what it is told, and nothing else.

use std::time::Duration;

use hw_testkit::{Direction, Ending, Fault, FaultProxy, poll_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server that sends back what it receives, and a proxy before it.
async fn echo() -> FaultProxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    FaultProxy::start(&address).await
}

async fn connect(proxy: &FaultProxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

async fn exchange(socket: &mut TcpStream, text: &[u8]) -> Vec<u8> {
    socket.write_all(text).await.unwrap();
    let mut answer = vec![0; text.len()];
    socket.read_exact(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn without_a_fault_every_byte_and_the_end_pass() {
    let proxy = echo().await;
    let mut socket = connect(&proxy).await;
    let text = vec![7; 300_000];
    let (mut read, mut write) = socket.split();
    let mut answer = Vec::new();
    let (sent, received) = tokio::join!(
        async {
            write.write_all(&text).await?;
            write.shutdown().await
        },
        read.read_to_end(&mut answer)
    );
    sent.unwrap();
    received.unwrap();
    assert_eq!(answer, text);
    proxy.until_open(0).await;
    assert_eq!(proxy.bytes(Direction::ToServer), 300_000);
    assert_eq!(proxy.accepted(), 1);
}

#[tokio::test]
async fn a_cut_strikes_after_exactly_k_bytes_and_the_next_connection_is_well() {
    let proxy = echo().await;
    for k in 0..6 {
        proxy.cut_after(Direction::ToClient, k, Ending::Close);
        let mut socket = connect(&proxy).await;
        socket.write_all(b"abcde").await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"abcde"[..k as usize], "cut after {k}");
        assert!(!proxy.is_armed());
        let mut next = connect(&proxy).await;
        assert_eq!(exchange(&mut next, b"well").await, b"well");
    }
}

#[tokio::test]
async fn a_reset_is_seen_as_an_error() {
    let proxy = echo().await;
    let mut socket = connect(&proxy).await;
    exchange(&mut socket, b"x").await;
    proxy.end_all(Ending::Reset);
    let error = socket.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    proxy.refuse();
    let mut refused = connect(&proxy).await;
    assert!(refused.read_u8().await.is_err());
}

#[tokio::test]
async fn a_flip_changes_one_bit_of_one_byte() {
    let proxy = echo().await;
    let mut socket = connect(&proxy).await;
    proxy.flip_after(Direction::ToServer, 3);
    assert_eq!(exchange(&mut socket, b"aa").await, b"aa");
    assert_eq!(exchange(&mut socket, b"aaaa").await, b"a`aa");
}

#[tokio::test]
async fn a_swallowed_direction_is_silent_while_the_other_still_speaks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = FaultProxy::start(&listener.local_addr().unwrap().to_string()).await;
    let mut client = connect(&proxy).await;
    let (mut server, _) = listener.accept().await.unwrap();
    proxy.set(Direction::ToServer, Fault { swallow: true, ..Fault::default() });
    client.write_all(b"lost").await.unwrap();
    assert_eq!(exchange_from(&mut server, &mut client, b"news").await, b"news");
    poll_until("four bytes are swallowed", || async { (proxy.swallowed() == 4).then_some(()) })
        .await;
    proxy.heal();
    client.write_all(b"kept").await.unwrap();
    drop(client);
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"kept");
}

async fn exchange_from(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) -> Vec<u8> {
    from.write_all(text).await.unwrap();
    let mut answer = vec![0; text.len()];
    to.read_exact(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn split_delayed_and_throttled_bytes_arrive_whole() {
    let proxy = echo().await;
    let mut socket = connect(&proxy).await;
    proxy.set(Direction::ToServer, Fault { split: Some(1), ..Fault::default() });
    assert_eq!(exchange(&mut socket, b"piece by piece").await, b"piece by piece");
    proxy.set(Direction::ToClient, Fault { delay: Duration::from_millis(1), ..Fault::default() });
    assert_eq!(exchange(&mut socket, b"later").await, b"later");
    proxy.set(Direction::ToServer, Fault { bytes_per_second: Some(100_000), ..Fault::default() });
    assert_eq!(exchange(&mut socket, &[1; 5_000]).await, [1; 5_000]);
}

#[tokio::test]
async fn a_paused_direction_resumes_without_loss() {
    let proxy = echo().await;
    let mut socket = connect(&proxy).await;
    exchange(&mut socket, b"x").await;
    proxy.set(Direction::ToServer, Fault { pause: true, ..Fault::default() });
    socket.write_all(b"held").await.unwrap();
    proxy.heal();
    let mut answer = [0; 4];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"held");
}
