use dtyp::{ByteOrder, DecodeError, DecodeErrorKind};

/// UTF-16 text as it stands in a stub, in the sender's byte order.
#[derive(Clone, Copy, Debug)]
pub struct WideStr<'a> {
    bytes: &'a [u8],
    order: ByteOrder,
}

impl<'a> WideStr<'a> {
    pub(super) const fn new(bytes: &'a [u8], order: ByteOrder) -> Self {
        Self { bytes, order }
    }

    /// The 16-bit units.
    pub fn units(self) -> impl DoubleEndedIterator<Item = u16> + ExactSizeIterator + use<'a> {
        let order = self.order;
        self.bytes.as_chunks::<2>().0.iter().map(move |unit| match order {
            ByteOrder::Little => u16::from_le_bytes(*unit),
            ByteOrder::Big => u16::from_be_bytes(*unit),
        })
    }

    /// Whether there are no units.
    pub const fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// The text before the NUL that must be its last unit and its only NUL.
    pub(super) fn without_nul(self) -> Option<Self> {
        let end = self.bytes.len().checked_sub(2)?;
        let at = self.units().position(|unit| unit == 0)?;
        (at * 2 == end).then_some(Self { bytes: &self.bytes[..end], ..self })
    }

    /// Compares with ASCII text, the case of ASCII letters aside; allocates nothing.
    pub fn eq_ignore_ascii_case(self, text: &str) -> bool {
        self.bytes.len() == text.len() * 2
            && self.units().zip(text.bytes()).all(|(unit, byte)| {
                u8::try_from(unit).is_ok_and(|unit| unit.is_ascii() && unit.eq_ignore_ascii_case(&byte))
            })
    }

    /// The text; lone surrogates and NULs are refused.
    pub fn text(self, what: &'static str) -> Result<String, DecodeError> {
        // Names are nearly always ASCII, and a call has several.
        let mut text = String::with_capacity(self.bytes.len() / 2);
        let mut units = self.units();
        while let Some(unit) = units.next() {
            match u8::try_from(unit) {
                Ok(byte @ 1..0x80) => text.push(char::from(byte)),
                _ => {
                    for c in char::decode_utf16(std::iter::once(unit).chain(units)) {
                        let c = c.ok().filter(|c| *c != '\0');
                        text.push(c.ok_or(DecodeError {
                            what,
                            offset: 0,
                            kind: DecodeErrorKind::BadText,
                        })?);
                    }
                    return Ok(text);
                }
            }
        }
        Ok(text)
    }
}
