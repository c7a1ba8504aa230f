//! Secure channels, challenges that clients have not answered yet, and counts of wrong proofs, which the
//! servers of one domain share.
//!
//! Changes here are no changes of accounts or machines, so the table `revision` stays as it is. Keys,
//! challenges and stored credentials are sealed; the seal also authenticates the rest of the row.

use crate::connection::Param;
use crate::rows::get;
use crate::{Inner, PostgresStore};
use account_store::columns::damaged;
use account_store::{BoxFuture, StoreError};
use dtyp::{FileTime, Sid};
use std::net::IpAddr;
use std::time::Duration;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use tracing::warn;
use zeroize::Zeroizing;

/// Random, and never used for another channel.
pub type ChannelId = [u8; 16];

/// A row of the table `channel`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Its number.
    pub id: ChannelId,
    /// Name of the account.
    pub account: String,
    /// SID of the account, which is of the domain.
    pub sid: Sid,
    /// NetBIOS name of the computer, in capital letters.
    pub computer: String,
    /// NETLOGON_SECURE_CHANNEL_TYPE.
    pub kind: u16,
    /// NegotiateFlags of the answer.
    pub negotiated_flags: u32,
    /// NegotiateFlags of the request.
    pub requested_flags: u32,
    /// When it ends.
    pub ends: FileTime,
    /// The session key in 16 octets, then eight octets that tell which secret was proved.
    pub key: Zeroizing<[u8; 24]>,
    /// The stored credential.
    pub credential: StoredCredential,
}

/// The stored credential of a channel, and how many times it was advanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredCredential {
    /// How many times it was advanced, from 0.
    pub generation: u64,
    /// Its octets.
    pub octets: [u8; 8],
}

/// A row of the table `challenge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Its number: the place in eight octets, big-endian, then eight random octets.
    pub id: [u8; 16],
    /// ClientChallenge in eight octets, then ServerChallenge in eight octets.
    pub halves: [u8; 16],
}

/// How long a client may take to answer a challenge: "a couple of minutes" ([MS-NRPC] 5.1).
const CHALLENGE_LIFETIME: Duration = Duration::from_secs(120);
/// Places for the challenges of one source and computer. Clients behind one balancer have one source, and a
/// flood in the name of a computer overwrites them; a handshake takes milliseconds.
const PLACES: u64 = 64;
/// A proof comes within this time, in 100 ns: younger challenges are overwritten only if so many places in
/// turn have one.
const HANDSHAKE: u64 = 10 * 10_000_000;
const PLACE_TRIES: u32 = 8;
/// The table has at most this many times [`PLACES`] rows, whatever clients do: 50 MB.
const GROUPS: u64 = 4096;
/// Places for counts of wrong proofs: about 6 MB. A count may take the place of another one.
const GUESS_PLACES: u64 = 1 << 16;
/// More failures than this are not told apart.
const FAILURES_MAX: i64 = 1000;
/// Channels of one account under one computer's name, and of one account in all.
const PER_COMPUTER_MAX: i64 = 8;
const PER_ACCOUNT_MAX: i64 = 512;
/// Channels under one computer's name that are read.
const FOUND_MAX: i64 = 32;
/// The name of a computer has at most 15 octets, and a DNS name 255.
const COMPUTER_LEN_MAX: usize = 255;

const COLUMNS: &str = "id, account, sid, computer, kind, negotiated_flags, requested_flags, ends, sealed, generation, credential";

impl PostgresStore {
    /// Keeps a challenge for two minutes, in place of another one of the same source and computer.
    pub fn put_challenge<'a>(
        &'a self,
        (source, computer): (IpAddr, &'a str),
        halves: [u8; 16],
        now: FileTime,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.run(async move {
            let (seal, first) = (self.inner.seal()?, first_place(&self.inner, source, computer)?);
            let ends = now + CHALLENGE_LIFETIME;
            for tries in 1..=PLACE_TRIES {
                let random = crate::schema::random()?.cast_unsigned();
                let place = first + random % PLACES;
                let mut id = [0; 16];
                id[..8].copy_from_slice(&place.to_be_bytes());
                id[8..].copy_from_slice(&random.to_be_bytes());
                let sealed = seal.seal_shared(&challenge_row(&id, ends, source, computer), &mut { halves })?;
                let sql = "INSERT INTO @.challenge (place, id, ends, sealed) VALUES ($1, $2, $3, $4)
                    ON CONFLICT (place) DO UPDATE SET id = excluded.id, ends = excluded.ends, sealed = excluded.sealed
                    WHERE challenge.ends <= $5 RETURNING place";
                // In the end, whatever is there gives way.
                let replaced = if tries < PLACE_TRIES { FileTime(ends.0 - HANDSHAKE) } else { FileTime(i64::MAX as u64) };
                let params: [Param<'_>; 5] = [
                    (&place.cast_signed(), Type::INT8),
                    (&id.as_slice(), Type::BYTEA),
                    (&ends.0.cast_signed(), Type::INT8),
                    (&sealed, Type::BYTEA),
                    (&replaced.0.cast_signed(), Type::INT8),
                ];
                if !self.inner.ask_primary(sql, &params).await?.is_empty() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The challenges of a source and computer, the newest first, and how many wrong proofs for an account
    /// the source has sent since `after`.
    pub fn attempts<'a>(
        &'a self,
        (source, computer, account): (IpAddr, &'a str, &'a str),
        (now, after): (FileTime, FileTime),
    ) -> BoxFuture<'a, Result<(Vec<Challenge>, u32), StoreError>> {
        self.run(async move {
            let (seal, first) = (self.inner.seal()?, first_place(&self.inner, source, computer)?);
            let (place, name) = guess_place(&self.inner, source, account)?;
            // Outer joins: one question for both, and always a row.
            let sql = "SELECT c.id, c.ends, c.sealed, g.failures FROM (SELECT 1) AS one
                LEFT JOIN @.guess g ON g.place = $4 AND g.name = $5 AND g.latest > $6
                LEFT JOIN @.challenge c ON c.place >= $1 AND c.place < $2 AND c.ends > $3 ORDER BY c.ends DESC";
            let params: [Param<'_>; 6] = [
                (&first.cast_signed(), Type::INT8),
                (&(first + PLACES).cast_signed(), Type::INT8),
                (&now.0.cast_signed(), Type::INT8),
                (&place, Type::INT8),
                (&name, Type::INT8),
                (&after.0.cast_signed(), Type::INT8),
            ];
            let rows = self.inner.ask_primary(sql, &params).await?;
            let failures = rows.first().map(|row| get::<Option<i64>>(row, 3)).transpose()?.flatten();
            let failures = u32::try_from(failures.unwrap_or(0)).map_err(|_| damaged("guess"))?;
            let mut challenges = Vec::new();
            for row in &rows {
                let Some(id) = get::<Option<&[u8]>>(row, 0)? else { continue };
                let id = id.try_into().map_err(|_| damaged("challenge"))?;
                let data = challenge_row(&id, FileTime(get::<i64>(row, 1)?.cast_unsigned()), source, computer);
                // That of another computer, whose places are the same, does not open.
                let halves = seal.open_shared(&data, get(row, 2)?).and_then(|halves| halves[..].try_into().ok());
                challenges.extend(halves.map(|halves| Challenge { id, halves }));
            }
            Ok((challenges, failures))
        })
    }

    /// Counts a wrong proof for an account, and returns how many there were since `after` before it.
    pub fn count_guess<'a>(
        &'a self,
        (source, account): (IpAddr, &'a str),
        (now, after): (FileTime, FileTime),
    ) -> BoxFuture<'a, Result<u32, StoreError>> {
        self.run(async move {
            let (place, name) = guess_place(&self.inner, source, account)?;
            let sql = "INSERT INTO @.guess (place, name, failures, latest) VALUES ($1, $2, 1, $3)
                ON CONFLICT (place) DO UPDATE SET name = excluded.name, latest = excluded.latest,
                failures = CASE WHEN guess.name = excluded.name AND guess.latest > $4
                    THEN LEAST(guess.failures, $5) + 1 ELSE 1 END RETURNING failures";
            let params: [Param<'_>; 5] = [
                (&place, Type::INT8),
                (&name, Type::INT8),
                (&now.0.cast_signed(), Type::INT8),
                (&after.0.cast_signed(), Type::INT8),
                (&FAILURES_MAX, Type::INT8),
            ];
            let rows = self.inner.ask_primary(sql, &params).await?;
            let failures: i64 = get(rows.first().ok_or_else(|| damaged("guess"))?, 0)?;
            u32::try_from(failures - 1).map_err(|_| damaged("guess"))
        })
    }

    /// Removes a challenge; `false` if it is not there any more.
    pub fn use_up_challenge(&self, id: [u8; 16]) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.run(async move {
            let place = id.first_chunk().copied().map_or(0, u64::from_be_bytes);
            let sql = "DELETE FROM @.challenge WHERE place = $1 AND id = $2 RETURNING place";
            let params: [Param<'_>; 2] = [(&place.cast_signed(), Type::INT8), (&id.as_slice(), Type::BYTEA)];
            Ok(!self.inner.ask_primary(sql, &params).await?.is_empty())
        })
    }

    /// Keeps a channel. Removes channels that have ended, and the oldest of its account and computer if there
    /// are too many.
    pub fn put_channel<'a>(
        &'a self,
        channel: &'a Channel,
        now: FileTime,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.run(async move {
            if channel.computer.len() > COMPUTER_LEN_MAX {
                return Err(StoreError::Refused("the name of the computer is too long".to_owned()));
            }
            let seal = self.inner.seal()?;
            let sealed = seal.seal_shared(&channel_row(channel), &mut *channel.key.clone())?;
            let credential = self.inner.sealed_credential(&channel.id, channel.credential)?;
            let sid = channel.sid.to_string();
            let sql = format!(
                "INSERT INTO @.channel ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
                ON CONFLICT DO NOTHING"
            );
            let params: [Param<'_>; 11] = [
                (&channel.id.as_slice(), Type::BYTEA),
                (&channel.account, Type::TEXT),
                (&sid, Type::TEXT),
                (&channel.computer.as_bytes(), Type::BYTEA),
                (&i64::from(channel.kind), Type::INT8),
                (&i64::from(channel.negotiated_flags), Type::INT8),
                (&i64::from(channel.requested_flags), Type::INT8),
                (&channel.ends.0.cast_signed(), Type::INT8),
                (&sealed, Type::BYTEA),
                (&channel.credential.generation.cast_signed(), Type::INT8),
                (&credential, Type::BYTEA),
            ];
            self.inner.ask_primary(&sql, &params).await?;
            if let Err(error) = self.inner.make_room(&sid, channel.computer.as_bytes(), now).await {
                warn!(%error, "Old channels not removed from PostgreSQL");
            }
            Ok(())
        })
    }

    /// The newest channels of a computer that are still good, the newest last, and the number of rows that
    /// are left out because they were changed without the key.
    pub fn channels<'a>(
        &'a self,
        computer: &'a str,
        now: FileTime,
    ) -> BoxFuture<'a, Result<(Vec<Channel>, usize), StoreError>> {
        self.run(async move {
            if computer.len() > COMPUTER_LEN_MAX {
                return Ok((Vec::new(), 0));
            }
            let sql = format!(
                "SELECT {COLUMNS} FROM @.channel WHERE computer = $1 AND ends > $2 ORDER BY ends DESC LIMIT $3"
            );
            let params: [Param<'_>; 3] = [
                (&computer.as_bytes(), Type::BYTEA),
                (&now.0.cast_signed(), Type::INT8),
                (&FOUND_MAX, Type::INT8),
            ];
            let rows = self.inner.ask_primary(&sql, &params).await?;
            let opened: Vec<_> = rows.iter().rev().flat_map(|row| self.inner.channel(row)).collect();
            let left_out = rows.len() - opened.len();
            Ok((opened, left_out))
        })
    }

    /// Forgets a channel.
    pub fn remove_channel<'a>(&'a self, id: &'a ChannelId) -> BoxFuture<'a, Result<(), StoreError>> {
        self.run(async move {
            let sql = "DELETE FROM @.channel WHERE id = $1";
            self.inner.ask_primary(sql, &[(&id.as_slice(), Type::BYTEA)]).await.map(drop)
        })
    }

    /// The stored credential of a channel; `None` if the channel is gone.
    pub fn stored_credential<'a>(
        &'a self,
        id: &'a ChannelId,
    ) -> BoxFuture<'a, Result<Option<StoredCredential>, StoreError>> {
        self.run(async move {
            let sql = "SELECT generation, credential FROM @.channel WHERE id = $1";
            let rows = self.inner.ask_primary(sql, &[(&id.as_slice(), Type::BYTEA)]).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            self.inner.credential(id, get(row, 0)?, get(row, 1)?).map(Some)
        })
    }

    /// Replaces the stored credential of a channel; `false` if it is not `from` any more, or the channel is
    /// gone.
    pub fn advance_credential<'a>(
        &'a self,
        id: &'a ChannelId,
        from: StoredCredential,
        octets: [u8; 8],
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.run(async move {
            let to = StoredCredential { generation: from.generation + 1, octets };
            let sealed = self.inner.sealed_credential(id, to)?;
            let sql = "UPDATE @.channel SET generation = $1, credential = $2 WHERE id = $3 AND generation = $4 RETURNING generation";
            let params: [Param<'_>; 4] = [
                (&to.generation.cast_signed(), Type::INT8),
                (&sealed, Type::BYTEA),
                (&id.as_slice(), Type::BYTEA),
                (&from.generation.cast_signed(), Type::INT8),
            ];
            Ok(!self.inner.ask_primary(sql, &params).await?.is_empty())
        })
    }
}

impl Inner {
    fn channel(&self, row: &Row) -> Result<Channel, StoreError> {
        let text = |at| {
            get::<&[u8]>(row, at)
                .and_then(|octets| String::from_utf8(octets.to_vec()).map_err(|_| damaged("channel")))
        };
        let number =
            |at| get::<i64>(row, at).and_then(|it| u32::try_from(it).map_err(|_| damaged("channel")));
        let id = get::<&[u8]>(row, 0)?.try_into().map_err(|_| damaged("channel"))?;
        let mut channel = Channel {
            id,
            account: get(row, 1)?,
            sid: get::<String>(row, 2)?.parse().map_err(|_| damaged("channel"))?,
            computer: text(3)?,
            kind: u16::try_from(number(4)?).map_err(|_| damaged("channel"))?,
            negotiated_flags: number(5)?,
            requested_flags: number(6)?,
            ends: FileTime(get::<i64>(row, 7)?.cast_unsigned()),
            key: Zeroizing::new([0; 24]),
            credential: self.credential(&id, get(row, 9)?, get(row, 10)?)?,
        };
        let opened = self.seal()?.open_shared(&channel_row(&channel), get(row, 8)?);
        let opened = opened.filter(|opened| opened.len() == channel.key.len());
        channel.key.copy_from_slice(&opened.ok_or_else(|| damaged("channel"))?);
        Ok(channel)
    }

    fn credential(
        &self,
        id: &ChannelId,
        generation: i64,
        sealed: &[u8],
    ) -> Result<StoredCredential, StoreError> {
        let generation = generation.cast_unsigned();
        let opened = self.seal()?.open_shared(&credential_row(id, generation), sealed);
        let octets =
            opened.and_then(|opened| opened[..].try_into().ok()).ok_or_else(|| damaged("channel"))?;
        Ok(StoredCredential { generation, octets })
    }

    fn sealed_credential(&self, id: &ChannelId, stored: StoredCredential) -> Result<Vec<u8>, StoreError> {
        let StoredCredential { generation, mut octets } = stored;
        self.seal()?.seal_shared(&credential_row(id, generation), &mut octets)
    }

    async fn make_room(&self, sid: &str, computer: &[u8], now: FileTime) -> Result<(), StoreError> {
        let sql = "DELETE FROM @.channel WHERE id IN (
            SELECT id FROM @.channel WHERE ends <= $1
            UNION ALL
            (SELECT id FROM @.channel WHERE sid = $2 AND computer = $3 ORDER BY ends DESC, id OFFSET $4)
            UNION ALL
            (SELECT id FROM @.channel WHERE sid = $2 ORDER BY ends DESC, id OFFSET $5))";
        let params: [Param<'_>; 5] = [
            (&now.0.cast_signed(), Type::INT8),
            (&sid, Type::TEXT),
            (&computer, Type::BYTEA),
            (&PER_COMPUTER_MAX, Type::INT8),
            (&PER_ACCOUNT_MAX, Type::INT8),
        ];
        self.ask_primary(sql, &params).await.map(drop)
    }
}

fn first_place(inner: &Inner, source: IpAddr, computer: &str) -> Result<u64, StoreError> {
    let text = [source.to_string().as_bytes(), b" ", computer.as_bytes()].concat();
    Ok(inner.seal()?.place_of(&text) % GROUPS * PLACES)
}

/// The place of a count, and what tells it from others at that place. Both are keyed, so that no client can
/// aim at the count of another one.
fn guess_place(inner: &Inner, source: IpAddr, account: &str) -> Result<(i64, i64), StoreError> {
    let of = |label: &[u8]| {
        let text = [label, source.to_string().as_bytes(), b" ", account.as_bytes()].concat();
        Ok::<_, StoreError>(inner.seal()?.place_of(&text))
    };
    Ok(((of(b"guess place ")? % GUESS_PLACES).cast_signed(), of(b"guess name ")?.cast_signed()))
}

fn challenge_row(id: &[u8; 16], ends: FileTime, source: IpAddr, computer: &str) -> Vec<u8> {
    [b"challenge", &id[..], &ends.0.to_be_bytes(), source.to_string().as_bytes(), b" ", computer.as_bytes()]
        .concat()
}

fn credential_row(id: &ChannelId, generation: u64) -> Vec<u8> {
    [b"credential", &id[..], &generation.to_be_bytes()].concat()
}

fn channel_row(channel: &Channel) -> Vec<u8> {
    let sid = channel.sid.to_string();
    let mut row = [
        b"channel",
        &channel.id[..],
        &channel.kind.to_be_bytes(),
        &channel.negotiated_flags.to_be_bytes(),
        &channel.requested_flags.to_be_bytes(),
        &channel.ends.0.to_be_bytes(),
    ]
    .concat();
    for text in [&channel.account, &sid, &channel.computer] {
        row.extend((text.len() as u64).to_be_bytes());
        row.extend(text.as_bytes());
    }
    row
}
