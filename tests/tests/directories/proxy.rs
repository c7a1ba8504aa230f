//! A TCP proxy in front of a directory, which records what a client sends, and can stand still.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The proxy; its threads end with the process.
pub(crate) struct Proxy {
    /// Where it listens, on 127.0.0.1.
    pub(crate) port: u16,
    sent: Arc<Mutex<Vec<u8>>>,
    is_still: Arc<AtomicBool>,
}

impl Proxy {
    pub(crate) fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let port = listener.local_addr().expect("it is bound").port();
        let (sent, is_still) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let proxy = Self { port, sent: Arc::clone(&sent), is_still: Arc::clone(&is_still) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (still, record) = (Arc::clone(&is_still), Arc::clone(&sent));
                std::thread::spawn(move || pass(from, to, &still, Some(&record)));
                let still = Arc::clone(&is_still);
                std::thread::spawn(move || pass(server, client, &still, None));
            }
        });
        proxy
    }

    /// Passes nothing on any more, and closes nothing; or goes on.
    pub(crate) fn stand_still(&self, is_still: bool) {
        self.is_still.store(is_still, Ordering::SeqCst);
    }

    /// What clients have sent.
    pub(crate) fn sent(&self) -> Vec<u8> {
        self.sent.lock().unwrap().clone()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, is_still: &AtomicBool, record: Option<&Mutex<Vec<u8>>>) {
    let mut chunk = [0; 16 << 10];
    while let Ok(len @ 1..) = from.read(&mut chunk) {
        if let Some(record) = record {
            record.lock().unwrap().extend_from_slice(&chunk[..len]);
        }
        while is_still.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        if to.write_all(&chunk[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
