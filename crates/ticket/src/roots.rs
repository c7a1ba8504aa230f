//! The roots that the nodes of a farm share.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use sha2::Sha256;
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// 32 random octets of one generation. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Root {
    #[zeroize(skip)]
    generation: u32,
    octets: [u8; Root::LEN],
}

impl Root {
    /// Length in octets: twice a master secret, so neither is taken for the other.
    pub const LEN: usize = 32;

    /// Generations are numbered by the farm's operator, from 1 upwards.
    pub const fn new(generation: u32, octets: [u8; Self::LEN]) -> Self {
        Self { generation, octets }
    }

    /// Reads what [`Root::to_line`] writes, without an end of line. There is one text for each root.
    pub fn from_line(text: &str) -> Result<Self, NotARoot> {
        let (generation, key) =
            text.strip_prefix(LINE_START).and_then(|rest| rest.split_once(':')).ok_or(NotARoot)?;
        let number = generation.parse::<u32>().map_err(|_| NotARoot)?;
        if number == 0 || number.to_string() != generation {
            return Err(NotARoot);
        }
        let octets = Zeroizing::new(URL_SAFE_NO_PAD.decode(key).map_err(|_| NotARoot)?);
        Ok(Self::new(number, octets.as_slice().try_into().map_err(|_| NotARoot)?))
    }

    /// The line of its file: `rcmpd-ticket-root:GENERATION:KEY`, with the octets in base64url without
    /// padding.
    pub fn to_line(&self) -> Zeroizing<String> {
        let key = Zeroizing::new(URL_SAFE_NO_PAD.encode(self.octets));
        Zeroizing::new(format!("{LINE_START}{}:{}", self.generation, key.as_str()))
    }

    /// Its number.
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// HKDF-SHA256 (RFC 5869) over the concatenated `info`.
    pub(crate) fn derive<const N: usize>(&self, salt: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
        let mut key = Zeroizing::new([0; N]);
        // INVARIANT: N is far below the 255 hashes that HKDF gives.
        Hkdf::<Sha256>::new(Some(salt), &self.octets)
            .expand_multi_info(info, key.as_mut())
            .expect("the key is short");
        key
    }
}

/// How the line of a root begins.
const LINE_START: &str = "rcmpd-ticket-root:";

/// A text is not the line of a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not a line rcmpd-ticket-root:GENERATION:KEY, with a generation from 1 and a key of 32 octets"
)]
pub struct NotARoot;

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({}, [redacted])", self.generation)
    }
}

/// Why roots are not usable together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// A ticket names its root by the generation.
    #[error("two roots have generation {0}")]
    Twice(u32),
    /// Tickets live at most a day, so more generations than this are of no use.
    #[error("there are more than {} roots", Roots::MAX)]
    TooMany,
    /// There is none.
    #[error("there is no root")]
    None,
}

/// The roots in use: the highest generation seals, each opens.
#[derive(Clone, Debug)]
pub struct Roots(Vec<Root>);

impl Roots {
    /// Roots that are in use at one time.
    pub const MAX: usize = 4;

    /// In any order.
    ///
    /// A new generation seals as soon as a node has it. So each node is given the new root first as an
    /// additional *older* one, by [`Roots::sealing_with`], and seals with it when all nodes have it.
    pub fn new(mut roots: Vec<Root>) -> Result<Self, RootsError> {
        roots.sort_by_key(|root| std::cmp::Reverse(root.generation));
        let twice = roots.windows(2).find(|pair| pair[0].generation == pair[1].generation);
        match (twice, roots.len()) {
            (Some(pair), _) => Err(RootsError::Twice(pair[0].generation)),
            (_, 0) => Err(RootsError::None),
            (_, len) if len > Self::MAX => Err(RootsError::TooMany),
            _ => Ok(Self(roots)),
        }
    }

    /// The same roots, of which this generation seals; `None` if there is none of this number.
    pub fn sealing_with(mut self, generation: u32) -> Option<Self> {
        let at = self.0.iter().position(|root| root.generation == generation)?;
        self.0.swap(0, at);
        Some(self)
    }

    /// The root that seals.
    pub(crate) fn sealing(&self) -> &Root {
        // INVARIANT: `new` refuses an empty list.
        self.0.first().expect("there is a root")
    }

    pub(crate) fn get(&self, generation: u32) -> Option<&Root> {
        self.0.iter().find(|root| root.generation == generation)
    }
}
