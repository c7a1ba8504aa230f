//! What the kernel and the runtime take of a call on this machine: as many bytes there and back, and nothing
//! done with them.

use crate::cores::apart;
use crate::generator::exchange;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

/// How the kernel knows the server's threads.
const THREAD: &str = "bench-transport";

/// A server of one thread, in this process.
pub(crate) struct Transport {
    address: SocketAddr,
    request_len: usize,
    runtime: Option<Runtime>,
}

impl Transport {
    pub(crate) async fn serve(request_len: usize, answer_len: usize) -> Self {
        let runtime = apart(|| {
            Builder::new_multi_thread().worker_threads(1).thread_name(THREAD).enable_all().build().unwrap()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap().into_std().unwrap();
        let address = listener.local_addr().unwrap();
        let mut answer = vec![0; answer_len];
        answer[2] = 2;
        answer[8..10].copy_from_slice(&(answer_len as u16).to_le_bytes());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answers(stream, request_len, answer.clone()));
            }
        });
        Self { address, request_len, runtime: Some(runtime) }
    }

    /// Processor time of a call.
    pub(crate) async fn measure(&self, connections: usize, calls: usize) -> f64 {
        let mut prepared = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(self.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            prepared.push((stream, vec![vec![0; self.request_len]; calls / connections]));
        }
        let before = crate::cpu_ns(std::process::id(), THREAD);
        exchange(prepared, |_, _| {}).await;
        (crate::cpu_ns(std::process::id(), THREAD) - before) as f64 / 1000.0 / calls as f64
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        // It cannot be waited for where other work is awaited.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

async fn answers(mut stream: TcpStream, request_len: usize, answer: Vec<u8>) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = vec![0; 8 * 1024];
    let mut received = 0;
    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
        received += len;
        if received == request_len {
            received = 0;
            stream.write_all(&answer).await.unwrap();
        }
    }
}
