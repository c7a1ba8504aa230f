//! What passes on the network between a client and a service, recorded by a relay between the two.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A relay to a service, which keeps all octets of both directions. It listens for as long as the process
/// lives.
#[derive(Debug)]
pub struct Recorder {
    /// Where clients connect to.
    pub address: SocketAddr,
    recorded: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    /// A relay to `target`.
    pub fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let address = listener.local_addr().expect("it is bound");
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let streams = Arc::clone(&recorded);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(target) else { continue };
                let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
                    continue;
                };
                let (one, other) = (Arc::clone(&streams), Arc::clone(&streams));
                thread::spawn(move || copy(from_client, server, &one));
                thread::spawn(move || copy(from_server, client, &other));
            }
        });
        Self { address, recorded }
    }

    /// All octets so far, one stream after the other.
    pub fn recorded(&self) -> Vec<u8> {
        self.recorded.lock().expect("no copier panics").concat()
    }

    /// Whether so many octets of `secret` in a row passed in clear.
    pub fn has_part_of(&self, secret: &[u8], octets: usize) -> bool {
        let recorded = self.recorded();
        secret.windows(octets).any(|part| recorded.windows(octets).any(|window| window == part))
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, streams: &Mutex<Vec<Vec<u8>>>) {
    let mut streams_now = streams.lock().expect("no copier panics");
    let at = streams_now.len();
    streams_now.push(Vec::new());
    drop(streams_now);
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(len) => {
                // Recorded before it is passed on: a client that has its answer has been recorded.
                streams.lock().expect("no copier panics")[at].extend_from_slice(&buffer[..len]);
                if to.write_all(&buffer[..len]).is_err() {
                    break;
                }
            }
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
