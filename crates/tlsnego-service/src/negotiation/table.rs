//! The negotiations in progress of a server, by their Context.

use super::server::{Grant, Issuing, Progress, Server, ServerNegotiation};
use crate::fault::Reason;
use crate::message::{Context, Request, Response};
use dcerpc::limits::source_of;
use dcerpc::quota::{FairTable, Ticket};
use rustls_pki_types::CertificateDer;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Negotiations in progress, as .NET has it. Beyond it a client is told that the server is too busy, unless
/// another address has more negotiations than it would have: then the oldest one of the address with most is
/// evicted.
///
/// One holds some 200 KiB at most: [`OCTETS_MAX`](crate::tls::OCTETS_MAX) of TLS, and AppliesTo.
pub const NEGOTIATIONS_MAX: usize = 128;
/// From the first leg to the last, as .NET has it.
pub const TIME_MAX: Duration = Duration::from_secs(60);

/// Negotiations in progress. Times are monotonic. TLS runs outside of the lock.
#[derive(Clone, Debug)]
pub struct Negotiations(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    server: Mutex<Server>,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    entries: FairTable<IpAddr, Entry>,
    by_context: HashMap<Context, Ticket>,
}

#[derive(Debug)]
struct Entry {
    context: Context,
    deadline: Duration,
    /// None while a leg is worked on.
    negotiation: Option<ServerNegotiation>,
}

/// The place of one negotiation while a leg of it is worked on. Dropped, it ends the negotiation.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    ticket: Ticket,
    deadline: Duration,
    /// The negotiation waits for another leg, and keeps its place.
    is_kept: bool,
}

/// What the server answers to a leg.
#[derive(Debug)]
pub enum Answer {
    /// The next leg.
    Reply(Reply),
    /// The handshake is complete.
    Established(Established),
}

/// A leg that waits to be sent. Dropped, it ends the negotiation.
#[derive(Debug)]
pub struct Reply {
    message: Response<'static>,
    negotiation: ServerNegotiation,
    place: Place,
}

/// A handshake that is complete. The caller decides on the client's certificate, and issues a token. Dropped,
/// it ends the negotiation.
#[derive(Debug)]
pub struct Established {
    negotiation: ServerNegotiation,
    last_flight: Vec<u8>,
    place: Place,
}

impl Negotiations {
    /// None in progress.
    pub fn new(server: Server) -> Self {
        let entries = FairTable::new(NEGOTIATIONS_MAX, NEGOTIATIONS_MAX);
        let table = Mutex::new(Table { entries, by_context: HashMap::new() });
        Self(Arc::new(Shared { server: Mutex::new(server), table }))
    }

    /// Begins new negotiations with other settings, such as a new certificate. Those in progress go on.
    pub fn set_server(&self, server: Server) {
        *self.0.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// How many are in progress, for a gauge.
    pub fn len(&self) -> usize {
        self.0.lock().entries.len()
    }

    /// Whether none is in progress.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the first leg of a client at this address. An error leaves nothing behind.
    pub fn first(
        &self,
        request: &Request<'_>,
        canonical: &[u8],
        source: IpAddr,
        now: Duration,
    ) -> Result<Answer, Reason> {
        let context = Context::new(request.context.as_deref())?;
        let place = self.begin(context.clone(), source_of(source), now)?;
        let server = self.0.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (negotiation, progress) = server.accept(context, request, canonical)?;
        Ok(place.answer(negotiation, progress))
    }

    /// Takes a later leg. An error ends the negotiation, except where another leg of it is worked on.
    pub fn next(&self, response: &Response<'_>, canonical: &[u8], now: Duration) -> Result<Answer, Reason> {
        let context = Context::new(response.context.as_deref())?;
        let (place, mut negotiation) = self.resume(&context, now)?;
        let progress = negotiation.receive(response, canonical)?;
        Ok(place.answer(negotiation, progress))
    }

    /// Ends those whose time is over. Each leg does it, too.
    pub fn expire(&self, now: Duration) {
        self.0.lock().expire(now);
    }

    fn begin(&self, context: Context, source: IpAddr, now: Duration) -> Result<Place, Reason> {
        let mut table = self.0.lock();
        table.expire(now);
        if table.by_context.contains_key(&context) {
            return Err(Reason::DuplicateContext);
        }
        if table.entries.len() >= NEGOTIATIONS_MAX {
            let Some((_, evicted)) = table.entries.evict_for(&source) else {
                return Err(Reason::TooManyNegotiations(NEGOTIATIONS_MAX));
            };
            table.by_context.remove(&evicted.context);
        }
        let deadline = now + TIME_MAX;
        let entry = Entry { context: context.clone(), deadline, negotiation: None };
        // There is room: nothing is evicted.
        let (ticket, _) = table.entries.insert(source, entry);
        table.by_context.insert(context, ticket);
        Ok(Place { shared: Arc::clone(&self.0), ticket, deadline, is_kept: false })
    }

    fn resume(&self, context: &Context, now: Duration) -> Result<(Place, ServerNegotiation), Reason> {
        let mut table = self.0.lock();
        table.expire(now);
        let ticket = *table.by_context.get(context).ok_or(Reason::UnknownContext)?;
        let entry = table.entries.get_mut(ticket).ok_or(Reason::UnknownContext)?;
        let negotiation = entry.negotiation.take().ok_or(Reason::UnknownContext)?;
        Ok((
            Place { shared: Arc::clone(&self.0), ticket, deadline: entry.deadline, is_kept: false },
            negotiation,
        ))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// All have the same time, so the oldest is the first to expire.
    fn expire(&mut self, now: Duration) {
        while let Some((ticket, entry)) = self.entries.oldest()
            && entry.deadline <= now
        {
            self.remove(ticket);
        }
    }

    fn remove(&mut self, ticket: Ticket) {
        if let Some((_, entry)) = self.entries.remove(ticket) {
            self.by_context.remove(&entry.context);
        }
    }
}

impl Place {
    fn answer(self, negotiation: ServerNegotiation, progress: Progress) -> Answer {
        match progress {
            Progress::Reply(message) => Answer::Reply(Reply { message, negotiation, place: self }),
            Progress::Complete(last_flight) => {
                Answer::Established(Established { negotiation, last_flight, place: self })
            }
        }
    }

    /// The negotiation waits for its next leg, unless its time was over or it was evicted meanwhile.
    fn put_back(mut self, negotiation: ServerNegotiation) {
        if let Some(entry) = self.shared.lock().entries.get_mut(self.ticket) {
            entry.negotiation = Some(negotiation);
        }
        self.is_kept = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_kept {
            self.shared.lock().remove(self.ticket);
        }
    }
}

impl Reply {
    /// The leg.
    pub fn message(&self) -> &Response<'static> {
        &self.message
    }

    /// The leg was written with these canonical octets. The negotiation waits for the next one.
    pub fn wrote(self, canonical: &[u8]) {
        let Self { mut negotiation, place, .. } = self;
        negotiation.wrote(canonical);
        place.put_back(negotiation);
    }
}

impl Established {
    /// The client's certificate, then those that it sent with it; none of an anonymous client. The client has
    /// its key; the caller validates the chain.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        self.negotiation.certificates()
    }

    /// Issues a token. The negotiation ends, whatever happens.
    pub fn issue(self, grant: Grant, now: Duration) -> Result<Issuing, Reason> {
        let Self { negotiation, last_flight, place } = self;
        match now < place.deadline {
            true => negotiation.issue(last_flight, grant),
            false => Err(Reason::TimedOut),
        }
    }
}
