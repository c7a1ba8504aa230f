use crate::certificate::Certificate;
use std::fmt;

/// Most octets of a serial number (RFC 5280 4.1.2.2), the sign's octet aside.
pub(super) const SERIAL_LEN_MAX: usize = 20;

/// A certificate's serial number at a fixed size: how many octets its INTEGER has, and the octets, left
/// aligned. Two are equal exactly when their encodings are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(pub(super) [u8; Self::LEN]);

impl Serial {
    /// Length and octets.
    pub(super) const LEN: usize = 1 + SERIAL_LEN_MAX;

    /// From the contents octets of an INTEGER. `None` when it is longer than 20 octets, or not the shortest
    /// form: two forms of one number would be two serial numbers here.
    pub fn new(contents: &[u8]) -> Option<Self> {
        if let [0x00, 0..=0x7f, ..] | [0xff, 0x80..=0xff, ..] | [] = contents {
            return None;
        }
        let octets = match contents {
            // A number of 160 bits has an octet before it that says it is not negative.
            [0, rest @ ..] if rest.len() == SERIAL_LEN_MAX => rest,
            octets => octets,
        };
        let mut serial = [0; Self::LEN];
        serial[0] = contents.len() as u8;
        serial[1..].get_mut(..octets.len())?.copy_from_slice(octets);
        Some(Self(serial))
    }

    /// A certificate's.
    pub fn of(certificate: &Certificate<'_>) -> Option<Self> {
        Self::new(certificate.serial)
    }

    /// The contents octets of the INTEGER.
    pub fn contents(&self) -> Vec<u8> {
        match usize::from(self.0[0]) {
            len if len > SERIAL_LEN_MAX => [&[0], &self.0[1..]].concat(),
            len => self.0[1..=len].to_vec(),
        }
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&dtyp::hex(&self.contents()))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_has_one_form_and_twenty_octets() {
        let long = [0x7f; 20];
        let high = [[0].as_slice(), &[0x80; 20]].concat();
        let negative = [0x80; 20];
        for good in [&[0x00][..], &[0x01], &[0x00, 0x80], &[0xff], &long, &high, &negative] {
            assert_eq!(Serial::new(good).map(|serial| serial.contents()).as_deref(), Some(good), "{good:x?}");
        }
        for bad in
            [&[][..], &[0x00, 0x01], &[0xff, 0x80], &[0x7f; 21], &[[0].as_slice(), &[0x80; 21]].concat()]
        {
            assert_eq!(Serial::new(bad), None, "{bad:x?}");
        }
        assert_ne!(Serial::new(&high), Serial::new(&negative));
        assert_ne!(Serial::new(&[0x01]), Serial::new(&[0x01, 0x00]));
    }
}
