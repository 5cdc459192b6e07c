//! A small HTTP server whose answer a test changes, which counts requests and can keep silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What the server says to a request.
#[derive(Clone)]
pub enum Answer {
    Body(String),
    Status(&'static str),
    Redirect(String),
    /// Takes the request and answers only once the answer is changed.
    Silence,
}

pub struct JwksServer {
    pub url: String,
    answer: watch::Sender<Answer>,
    requests: Arc<AtomicUsize>,
}

impl JwksServer {
    pub async fn start(answer: Answer) -> JwksServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let (answer, answers) = watch::channel(answer);
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = requests.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (mut answers, counted) = (answers.clone(), counted.clone());
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        request.push(socket.read_u8().await?);
                    }
                    assert!(request.starts_with(b"GET "));
                    counted.fetch_add(1, Ordering::SeqCst);
                    let spoken = answers.wait_for(|answer| !matches!(answer, Answer::Silence));
                    let Ok(answer) = spoken.await.map(|answer| answer.clone()) else {
                        return Ok(());
                    };
                    let text = match answer {
                        Answer::Body(body) => format!(
                            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                            body.len()
                        ),
                        Answer::Status(status) => format!(
                            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                        ),
                        Answer::Redirect(to) => format!(
                            "HTTP/1.1 302 Found\r\nlocation: {to}\r\nconnection: close\r\n\
                             content-length: 0\r\n\r\n"
                        ),
                        Answer::Silence => unreachable!(),
                    };
                    socket.write_all(text.as_bytes()).await
                });
            }
        });
        JwksServer { url, answer, requests }
    }

    pub fn say(&self, answer: Answer) {
        self.answer.send_replace(answer);
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}
