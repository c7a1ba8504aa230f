//! A way to PostgreSQL that loses notifications, and can be slow.

use crate::ports::free_port;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// NotificationResponse, of "Message Formats" in the documentation of PostgreSQL.
const NOTIFICATION: u8 = b'A';

/// Passes on all messages of a server, except notifications. Without TLS.
#[derive(Debug)]
pub struct PostgresProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    server: Mutex<String>,
    delay_ms: AtomicU64,
    lost: AtomicU64,
}

impl PostgresProxy {
    /// A proxy in front of the server at an address, for as long as the process lives.
    pub fn start(server: String) -> Self {
        let (address, shared) = (free_port(), Arc::<Shared>::default());
        *shared.server() = server;
        let listener = TcpListener::bind(address).expect("the port is free");
        let of = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = of.server().clone();
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let pairs = [&client, &server].map(|stream| stream.try_clone().expect("it is open"));
                let [to_client, to_server] = pairs;
                let shared = Arc::clone(&of);
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut &client, &mut &to_server);
                    let _ = to_server.shutdown(Shutdown::Both);
                });
                std::thread::spawn(move || {
                    let _ = pass_on(&server, &to_client, &shared);
                    let _ = to_client.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, shared }
    }

    /// Leads new connections to another server.
    pub fn lead_to(&self, server: String) {
        *self.shared.server() = server;
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Passes each message of the server on after so much time.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay_ms.store(delay.as_millis().try_into().expect("it is short"), Ordering::SeqCst);
    }

    /// Notifications that were lost.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn server(&self) -> MutexGuard<'_, String> {
        self.server.lock().expect("no thread panics with it")
    }
}

/// Each message of a server has a type, and a length that counts itself.
fn pass_on(mut server: &TcpStream, mut client: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    loop {
        let mut message = vec![0; 5];
        server.read_exact(&mut message)?;
        let length = u32::from_be_bytes([message[1], message[2], message[3], message[4]]) as usize;
        message.resize(1 + length, 0);
        server.read_exact(&mut message[5..])?;
        if message[0] == NOTIFICATION {
            shared.lost.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        // Once for each answer: ReadyForQuery ends it.
        if message[0] == b'Z' {
            std::thread::sleep(Duration::from_millis(shared.delay_ms.load(Ordering::SeqCst)));
        }
        client.write_all(&message)?;
    }
}
