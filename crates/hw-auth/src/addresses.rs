//! Which network addresses keys may be fetched from.
//!
//! In flow the configured ranges and the addresses that a name resolved to; out flows whether one
//! of them may be asked. Invariant: the address that is checked is the one that is connected to,
//! so a name that changes between the two cannot slip through.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Addresses that keys are not fetched from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRange {
    /// Everything that is not a public unicast address (`local`): loopback, private networks,
    /// link-local addresses with the metadata services of clouds among them.
    Local,
    /// The addresses whose first `bits` bits are those of `network` (`10.0.0.0/8`).
    Network {
        /// Any address of the range.
        network: IpAddr,
        /// How many of its bits count.
        bits: u8,
    },
}

impl AddressRange {
    /// Whether an address is one of them.
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match self {
            AddressRange::Local => !is_public(address),
            AddressRange::Network { network, bits } => match (network, address) {
                (IpAddr::V4(network), IpAddr::V4(address)) => same_bits(
                    u128::from(network.to_bits()),
                    u128::from(address.to_bits()),
                    32,
                    bits,
                ),
                (IpAddr::V6(network), IpAddr::V6(address)) => {
                    same_bits(network.to_bits(), address.to_bits(), 128, bits)
                }
                _ => false,
            },
        }
    }
}

fn same_bits(a: u128, b: u128, width: u8, bits: u8) -> bool {
    // Shifting by the whole width is no shift in Rust: a range of 0 bits holds everything.
    (a ^ b).checked_shr(u32::from(width - bits)).unwrap_or(0) == 0
}

impl FromStr for AddressRange {
    type Err = String;

    /// Reads `local`, an address, or an address and its number of bits.
    ///
    /// - Errors: what was expected, in words.
    fn from_str(text: &str) -> Result<AddressRange, String> {
        let expected = || "\"local\" or a range of addresses such as 10.0.0.0/8".to_owned();
        if text == "local" {
            return Ok(AddressRange::Local);
        }
        let (network, bits) = match text.split_once('/') {
            None => (text, None),
            Some((network, bits)) => (network, Some(bits.parse::<u8>().map_err(|_| expected())?)),
        };
        let network: IpAddr = network.parse().map_err(|_| expected())?;
        let width = if network.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(width);
        if bits > width {
            return Err(expected());
        }
        Ok(AddressRange::Network { network, bits })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressRange::Local => f.write_str("local"),
            AddressRange::Network { network, bits } => write!(f, "{network}/{bits}"),
        }
    }
}

/// Whether an address is one of the public internet.
///
/// Source: the IANA registries of special-purpose addresses (RFC 6890).
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match (a, b) {
        // This network, private, loopback, multicast and all that is reserved above it.
        (0 | 10 | 127 | 224.., _) => true,
        // Shared by providers, link-local, private, private, benchmarks.
        (100, 64..=127) | (169, 254) | (172, 16..=31) | (192, 168) | (198, 18..=19) => true,
        // Protocols, documentation.
        (192, 0) => matches!(c, 0 | 2),
        (198, 51) => c == 100,
        (203, 0) => c == 113,
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // NAT64 (RFC 6052): the address behind it counts.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            is_public_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        // Documentation; Teredo and 6to4, which carry any IPv4 address inside.
        [0x2001, 0xdb8 | 0, ..] | [0x2002, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// Refuses addresses: those written in an address, and those that names resolve to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    rejected: Vec<AddressRange>,
}

impl Guard {
    pub(crate) fn new(rejected: Vec<AddressRange>) -> Guard {
        Guard { rejected }
    }

    /// The same, which also lets nobody lead it into the local network.
    pub(crate) fn public_only(&self) -> Guard {
        let mut rejected = self.rejected.clone();
        rejected.push(AddressRange::Local);
        Guard { rejected }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.rejected.is_empty()
    }

    fn admits(&self, address: IpAddr) -> bool {
        !self.rejected.iter().any(|range| range.contains(address))
    }

    /// Checks an address that is written as numbers, which no resolver is asked for.
    pub(crate) fn check(&self, url: &Url) -> Result<(), String> {
        match url.host_str().and_then(literal) {
            Some(address) if !self.admits(address) => Err(REJECTED.to_owned()),
            _ => Ok(()),
        }
    }
}

const REJECTED: &str = "its network address is in a rejected range";

/// The host of a URL, if it is an address in numbers.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let admitted: Vec<SocketAddr> =
                found.filter(|address| guard.admits(address.ip())).collect();
            if admitted.is_empty() {
                return Err(REJECTED.into());
            }
            Ok(Box::new(admitted.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_is_everything_that_is_no_public_unicast_address() {
        for local in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001:db8::1",
            "2001:0:a00:1::",
        ] {
            assert!(AddressRange::Local.contains(local.parse().unwrap()), "{local}");
        }
        for public in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "64:ff9b::101:101"] {
            assert!(!AddressRange::Local.contains(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn a_range_holds_what_begins_with_its_bits() {
        for (range, address, holds) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("10.0.0.0/8", "::1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("0.0.0.0/0", "192.0.2.6", true),
            ("::/0", "2606:4700::1", true),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
        ] {
            let read: AddressRange = range.parse().unwrap();
            assert_eq!(read.contains(address.parse().unwrap()), holds, "{range} {address}");
        }
        for wrong in ["", "everywhere", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0/8"] {
            assert!(wrong.parse::<AddressRange>().is_err(), "{wrong}");
        }
        for right in ["local", "10.0.0.0/8", "fd00::/8"] {
            assert_eq!(right.parse::<AddressRange>().unwrap().to_string(), right);
        }
    }
}
