//! Addresses as text, without memory of its own and without the formatting machinery: every span has one.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;

/// An address as the standard library writes it; an IPv4 address in IPv6 form is written as IPv4.
pub(super) struct AddressText {
    text: [u8; Self::CAPACITY],
    len: usize,
}

impl AddressText {
    /// The longest: `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255`, and what the last octet's digits overwrite.
    const CAPACITY: usize = 48;

    pub(super) fn of(address: IpAddr) -> Self {
        let mut text = Self {
            text: [b'.'; Self::CAPACITY],
            len: 0,
        };
        match address.to_canonical() {
            IpAddr::V4(address) => {
                for octet in address.octets() {
                    text.put_octet(octet);
                }
                text.len -= 1;
            }
            // There is room for each.
            IpAddr::V6(address) => fmt::write(&mut text, format_args!("{address}")).unwrap_or(()),
        }
        text
    }

    /// Three digits and a dot at most.
    fn put_octet(&mut self, octet: u8) {
        let (digits, len) = OCTETS[usize::from(octet)];
        if let Some(place) = self.text.get_mut(self.len..self.len + 4) {
            place.copy_from_slice(&digits);
            self.len += usize::from(len);
        }
    }
}

impl fmt::Write for AddressText {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let end = self.len + part.len();
        let place = self.text.get_mut(self.len..end).ok_or(fmt::Error)?;
        place.copy_from_slice(part.as_bytes());
        self.len = end;
        Ok(())
    }
}

impl Deref for AddressText {
    type Target = str;

    fn deref(&self) -> &str {
        let text = self.text.get(..self.len).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }
}

/// Each octet with a dot behind it, and how long that is.
static OCTETS: [([u8; 4], u8); 256] = {
    let mut all = [([b'.'; 4], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let digits = [octet / 100, octet / 10 % 10, octet % 10];
        let mut from = if octet >= 100 {
            0
        } else if octet >= 10 {
            1
        } else {
            2
        };
        let mut len = 0;
        while from < 3 {
            all[octet].0[len] = b'0' + digits[from] as u8;
            len += 1;
            from += 1;
        }
        all[octet].1 = len as u8 + 1;
        octet += 1;
    }
    all
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_the_standard_library_writes_them() {
        for text in [
            "0.0.0.0",
            "127.0.0.1",
            "10.20.99.100",
            "255.255.255.255",
            "9.10.100.200",
            "2001:db8::1",
            "::",
            "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff",
        ] {
            assert_eq!(&*AddressText::of(text.parse().unwrap()), text);
        }
        let mapped = AddressText::of("::ffff:10.1.2.3".parse().unwrap());
        assert_eq!(&*mapped, "10.1.2.3");
    }
}
