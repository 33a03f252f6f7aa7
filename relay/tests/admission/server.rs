//! A stand-in for servers that a relay asks: records requests, and gives an answer that the test sets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use tieline_relay::config::HttpUrl;

use crate::agent::SOON;

/// Status and body.
type Reply = (u16, String);

pub(crate) struct Server {
    address: SocketAddr,
    reply: Arc<Mutex<Option<Reply>>>,
    asked: Receiver<String>,
}

impl Server {
    /// A server with this answer; `None` never answers.
    pub(crate) fn start(reply: Option<(u16, &str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (tell, asked) = sync_channel(1024);
        let server = Self {
            address: listener.local_addr().unwrap(),
            reply: Arc::default(),
            asked,
        };
        server.replies(reply);
        let reply = Arc::clone(&server.reply);
        thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = request(&mut stream);
                let now = reply.lock().unwrap().clone();
                match now {
                    Some((status, body)) => {
                        let length = body.len();
                        let _ = write!(
                            stream,
                            "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
                        );
                    }
                    None => silent.push(stream),
                }
                if tell.try_send(request).is_err() {
                    return;
                }
            }
        });
        server
    }

    pub(crate) fn replies(&self, reply: Option<(u16, &str)>) {
        *self.reply.lock().unwrap() = reply.map(|(status, body)| (status, body.to_owned()));
    }

    pub(crate) fn url(&self) -> HttpUrl {
        HttpUrl::parse(&format!("http://{}", self.address)).unwrap()
    }

    /// The next request, head and body.
    pub(crate) fn asked(&self) -> String {
        self.asked.recv_timeout(SOON).expect("a request")
    }

    /// The next request, if there is one already.
    pub(crate) fn asked_already(&self) -> Option<String> {
        self.asked.try_recv().ok()
    }
}

fn request(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut block = [0; 4096];
    loop {
        let read = stream.read(&mut block).unwrap_or(0);
        text += &String::from_utf8_lossy(&block[..read]);
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let head = head.to_ascii_lowercase();
            let length = head.split_once("content-length: ").map_or("0", |it| it.1);
            let digits: String = length.chars().take_while(char::is_ascii_digit).collect();
            digits.parse() == Ok(body.len())
        });
        if whole || read == 0 {
            return text;
        }
    }
}
