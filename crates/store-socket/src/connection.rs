//! One connection to the program, with one question at a time.

use crate::failed::Failed;
use crate::settings::Settings;
use crate::wire::{self, ANSWER_LEN_MAX, Answer, Ask, HELLO_LEN_MAX};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

pub(crate) struct Connection {
    stream: UnixStream,
    /// Whether the program has revisions, by its hello.
    has_revisions: bool,
    pub(crate) opened: Instant,
    /// Whether it has carried a question.
    pub(crate) is_used: bool,
}

impl Connection {
    /// Connects, and greets the program. Returns its revision, if it has revisions.
    pub(crate) async fn open(
        settings: &Settings,
        deadline: Instant,
    ) -> Result<(Self, Option<String>), Failed> {
        let path = settings.path.display();
        (settings.check_place)().map_err(|why| Failed::Connect(format!("{path}: {why}")))?;
        let failed = |error: io::Error| Failed::Connect(format!("{path}: {error}"));
        let connecting = timeout_at(deadline, UnixStream::connect(&settings.path));
        let mut stream = connecting.await.map_err(|_| Failed::Timeout)?.map_err(failed)?;
        // Nothing is sent to another user.
        let uid = stream.peer_cred().map_err(failed)?.uid();
        if uid != settings.peer {
            let peer = settings.peer;
            return Err(Failed::Peer(format!("{path} is of user {uid}, and store.socket.peer is {peer}")));
        }
        let greeting = async {
            stream.write_all(&wire::hello(&settings.domain)).await.map_err(closed)?;
            let body = read_frame(&mut stream, HELLO_LEN_MAX).await?;
            wire::read_hello(&body, &settings.domain)
        };
        let revision = timeout_at(deadline, greeting).await.unwrap_or(Err(Failed::Timeout))?;
        settings.meter.connected();
        let has_revisions = revision.is_some();
        Ok((Self { stream, has_revisions, opened: Instant::now(), is_used: false }, revision))
    }

    /// Asks one question. After an error that ends the connection it is not used again.
    pub(crate) async fn ask(
        &mut self,
        number: u64,
        ask: Ask<'_>,
        deadline: Instant,
    ) -> Result<Answer, Failed> {
        let question = wire::question(number, deadline.saturating_duration_since(Instant::now()), ask);
        let asking = async {
            self.stream.write_all(&question).await.map_err(closed)?;
            let body = read_frame(&mut self.stream, ANSWER_LEN_MAX).await?;
            self.is_used = true;
            let answer = wire::read_answer(&body, number, ask)?;
            match answer.revision.is_some() == self.has_revisions {
                true => Ok(answer),
                false => {
                    Err(Failed::Protocol("hello and answer differ in whether there is a revision".to_owned()))
                }
            }
        };
        timeout_at(deadline, asking).await.unwrap_or(Err(Failed::Timeout))
    }

    /// Rejects a connection over which something came that no question asked for, or that was closed.
    pub(crate) fn check_quiet(&self) -> Result<(), Failed> {
        match self.stream.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Ok(1..) => Err(Failed::Protocol("an answer came that no question asked for".to_owned())),
            Ok(0) => Err(Failed::Connection("closed while it was idle".to_owned())),
            Err(error) => Err(closed(error)),
        }
    }
}

fn closed(error: io::Error) -> Failed {
    Failed::Connection(error.to_string())
}

/// Reads the body of a frame. Memory is taken as it arrives, not as it is announced.
async fn read_frame(stream: &mut UnixStream, max: u32) -> Result<Vec<u8>, Failed> {
    let len = stream.read_u32().await.map_err(closed)?;
    if len == 0 || len > max {
        return Err(Failed::Protocol(format!("a frame of {len} bytes came; 1 to {max} are allowed")));
    }
    let mut body = Vec::new();
    stream.take(len.into()).read_to_end(&mut body).await.map_err(closed)?;
    match u32::try_from(body.len()) == Ok(len) {
        true => Ok(body),
        false => Err(Failed::Protocol("the connection was closed within an answer".to_owned())),
    }
}
