//! The values that a setting can have beside plain numbers: periods, sizes, counts, bounds, secrets and patterns.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::kernel::pattern::Pattern;

/// A length of time, written `"30s"`, `"5m"`, `"1h30m"`, `"30d"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Period(pub Duration);

/// A number of bytes, written `"64KiB"`, `"1MiB"` or as a plain integer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Size(pub u64);

/// A number of things.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Count(pub u64);

/// A value, or `"none"`: no bound at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bound<T>(pub Option<T>);

impl Period {
    pub const fn seconds(n: u64) -> Self {
        Period(Duration::from_secs(n))
    }
}

impl From<Period> for Duration {
    fn from(period: Period) -> Duration {
        period.0
    }
}

impl Size {
    pub const fn kib(n: u64) -> Self {
        Size(n << 10)
    }
    pub const fn mib(n: u64) -> Self {
        Size(n << 20)
    }
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// What stands in the file before it has a unit.
enum Raw {
    Integer(i64),
    Text(String),
}

/// A quantity that reads itself from what stands in the file.
trait Quantity: Sized {
    const WHAT: &'static str;
    fn read(raw: &Raw) -> Result<Self, String>;
}

impl Quantity for Period {
    const WHAT: &'static str = "a length of time such as \"30s\" or \"1h30m\"";
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Integer(n) => Err(format!("{n} has no unit: write \"{n}s\" for seconds")),
            Raw::Text(text) => text.parse(),
        }
    }
}

impl Quantity for Size {
    const WHAT: &'static str = "a size such as \"64KiB\", or a number of bytes";
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Integer(n) => u64::try_from(*n).map(Size).map_err(|_| "a size cannot be negative".into()),
            Raw::Text(text) => text.parse(),
        }
    }
}

impl Quantity for Count {
    const WHAT: &'static str = "a whole number";
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Integer(n) => u64::try_from(*n).map(Count).map_err(|_| "a number here cannot be negative".into()),
            Raw::Text(text) => Err(format!("must be a whole number, not {text:?}")),
        }
    }
}

impl<T: Quantity> Quantity for Bound<T> {
    const WHAT: &'static str = T::WHAT;
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if text == "none" => Ok(Bound(None)),
            raw => T::read(raw).map(|value| Bound(Some(value))),
        }
    }
}

fn quantity<'de, D: Deserializer<'de>, T: Quantity>(deserializer: D) -> Result<T, D::Error> {
    struct RawVisitor(&'static str);
    impl Visitor<'_> for RawVisitor {
        type Value = Raw;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
        fn visit_i64<E>(self, n: i64) -> Result<Raw, E> {
            Ok(Raw::Integer(n))
        }
        fn visit_u64<E: de::Error>(self, n: u64) -> Result<Raw, E> {
            i64::try_from(n).map(Raw::Integer).map_err(|_| E::custom(format!("{n} is too large")))
        }
        fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
            Ok(Raw::Text(text.to_owned()))
        }
    }
    let raw = deserializer.deserialize_any(RawVisitor(T::WHAT))?;
    T::read(&raw).map_err(de::Error::custom)
}

macro_rules! read_as_quantity {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                quantity(deserializer)
            }
        }
        impl<'de> Deserialize<'de> for Bound<$name> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                quantity(deserializer)
            }
        }
    )*};
}
read_as_quantity!(Period, Size, Count);

/// The longest period that makes sense; it keeps every sum of times far from overflow.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

const PERIOD_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 5] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1), ("", 1)];

/// `":8080"`, as Go's programs write it, is every address of this machine.
pub fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    let whole = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text };
    whole.parse().map_err(|_| de::Error::custom("invalid socket address"))
}

/// Splits a leading run of digits from the unit that follows it.
fn number_and_rest(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// What follows a decimal point, as in `"1.5h"`: 0.5.
fn fraction_and_rest(text: &str) -> Option<(f64, &str)> {
    let Some(digits) = text.strip_prefix('.') else { return Some((0.0, text)) };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    Some((format!("0.{}", &digits[..end]).parse().ok().filter(|_| end > 0)?, &digits[end..]))
}

impl std::str::FromStr for Period {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a length of time: write one such as \"500ms\", \"30s\", \"1h30m\", \"30d\"");
        let mut rest = text;
        let mut total = 0u64;
        let mut last_unit = u64::MAX;
        loop {
            let (number, tail) = number_and_rest(rest).ok_or_else(wrong)?;
            let (fraction, tail) = fraction_and_rest(tail).ok_or_else(wrong)?;
            let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let unit = PERIOD_UNITS.iter().find(|(name, _)| *name == &tail[..end]).ok_or_else(wrong)?.1;
            if unit >= last_unit {
                return Err(wrong());
            }
            last_unit = unit;
            let ms = number.checked_mul(unit).and_then(|ms| ms.checked_add((fraction * unit as f64) as u64));
            total = ms.and_then(|ms| total.checked_add(ms)).ok_or_else(wrong)?;
            rest = &tail[end..];
            if rest.is_empty() {
                break;
            }
        }
        let period = Duration::from_millis(total);
        if period > LONGEST { Err(format!("{text:?} is longer than a hundred years")) } else { Ok(Period(period)) }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis() as u64;
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, unit) in PERIOD_UNITS {
            if rest >= unit {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a size: write one such as 65536, \"64KiB\", \"1MiB\", \"2GiB\"");
        let (number, unit) = number_and_rest(text).ok_or_else(wrong)?;
        let unit = SIZE_UNITS.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(wrong)?.1;
        number.checked_mul(unit).filter(|n| *n <= i64::MAX as u64).map(Size).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = SIZE_UNITS
            .into_iter()
            .find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit))
            .unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<T: Serialize> Serialize for Bound<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str("none"),
        }
    }
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("<secret>")
    }
}

/// A channel pattern together with the text it was read from.
#[derive(Clone)]
pub struct ChannelPattern {
    text: String,
    pattern: Pattern,
}

impl ChannelPattern {
    pub fn parse(text: &str) -> Result<Self, String> {
        let pattern = Pattern::parse(text).map_err(|why| format!("{text:?} is no channel pattern: {why}"))?;
        Ok(ChannelPattern { text: text.to_owned(), pattern })
    }
    pub fn matches(&self, channel: &str) -> bool {
        self.pattern.matches(channel)
    }
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl Serialize for ChannelPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for ChannelPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ChannelPattern::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A value, or `"none"`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoneOr<T>(pub Option<T>);

impl<T> Default for NoneOr<T> {
    fn default() -> Self {
        NoneOr(None)
    }
}

impl Serialize for NoneOr<PathBuf> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.as_ref().map_or("none".into(), |path| path.to_string_lossy()))
    }
}

impl<'de> Deserialize<'de> for NoneOr<PathBuf> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(NoneOr((text != "none" && !text.is_empty()).then(|| text.into())))
    }
}

impl Serialize for NoneOr<SocketAddr> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.map_or("none".into(), |address| address.to_string()))
    }
}

/// A port alone is one of this machine's loopback.
impl<'de> Deserialize<'de> for NoneOr<SocketAddr> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Quoted::deserialize(deserializer)? {
            Quoted::Number(number) => number.to_string(),
            Quoted::Text(text) => text,
        };
        if text == "none" {
            return Ok(NoneOr(None));
        }
        let port = text.parse::<u16>().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let address = port.or_else(|_| text.parse());
        address.map(|address| NoneOr(Some(address))).map_err(|_| {
            de::Error::custom(format!(
                "{text:?} is no address: write \"127.0.0.1:9090\", a port such as 9090, or \"none\""
            ))
        })
    }
}

/// What may stand without quotes where a text is meant.
#[derive(Deserialize)]
#[serde(untagged)]
enum Quoted {
    Number(u64),
    Text(String),
}

/// Addresses with the same beginning: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    pub fn contains(&self, ip: IpAddr) -> bool {
        let alike = match (self.address, ip.to_canonical()) {
            (IpAddr::V4(of), IpAddr::V4(ip)) => (of.to_bits() ^ ip.to_bits()).leading_zeros(),
            (IpAddr::V6(of), IpAddr::V6(ip)) => (of.to_bits() ^ ip.to_bits()).leading_zeros(),
            _ => return false,
        };
        alike >= u32::from(self.prefix)
    }
}

impl std::str::FromStr for Network {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no network: write one such as \"10.0.0.0/8\", \"fd00::/8\" or \"127.0.0.1\"");
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(most), str::parse).map_err(|_| wrong())?;
        if prefix > most { Err(wrong()) } else { Ok(Network { address, prefix }) }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}/{}", self.address, self.prefix))
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_reads_as_people_write_it_and_prints_shortest() {
        for (text, seconds, printed) in [
            ("30s", 30, "30s"),
            ("5m", 300, "5m"),
            ("1h30m", 5400, "1h30m"),
            ("90m", 5400, "1h30m"),
            ("1.5h", 5400, "1h30m"),
            ("0.5m1.0s", 31, "31s"),
            ("720h", 2_592_000, "30d"),
            ("0s", 0, "0s"),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!((period, period.to_string()), (Period::seconds(seconds), printed.to_owned()), "{text}");
        }
        assert_eq!("250ms".parse::<Period>().unwrap().0, Duration::from_millis(250));
    }

    #[test]
    fn a_period_without_sense_is_refused() {
        for bad in [
            "",
            "30",
            "s",
            "30 s",
            "-1s",
            "1.h",
            "1..5h",
            ".5h",
            "5m1h",
            "1s1s",
            "99999999999999999999s",
            "99999999d",
            "30sec",
        ] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_size_reads_with_and_without_a_unit() {
        for (text, bytes) in [("64KiB", 65_536), ("1MiB", 1 << 20), ("2 GiB", 2 << 30), ("1000", 1000), ("7B", 7)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for bad in ["", "KiB", "64KB", "64k", "-1", "1.5MiB", "99999999999GiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        assert_eq!(
            (Size(65_536).to_string(), Size(1000).to_string(), Size(0).to_string()),
            ("64KiB".into(), "1000B".into(), "0B".into())
        );
    }

    #[test]
    fn a_network_contains_what_begins_like_it() {
        let contains = |network: &str, ip: &str| network.parse::<Network>().unwrap().contains(ip.parse().unwrap());
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.2"),
            ("192.168.1.128/25", "192.168.1.200", "192.168.1.1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("2001:db8:0:8::/61", "2001:db8:0:f::1", "2001:db8:0:10::1"),
            ("::1", "::1", "::2"),
        ] {
            assert!(contains(network, inside) && !contains(network, outside), "{network}");
        }
        assert!(contains("0.0.0.0/0", "1.2.3.4") && contains("::/0", "fe80::1") && !contains("::/0", "1.2.3.4"));
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "10.0.0.0/-1", "example.com"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {}", serde_json::to_string(&secret).unwrap()), "<secret> \"<secret>\"");
    }
}
